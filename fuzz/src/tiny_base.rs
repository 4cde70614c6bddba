//! A base model of a few numbers, so that whole adapters for it are small inputs.

use polylora_adapters::{BaseModel, Digest, IgnoredModule, LowRank, Site, SiteCatalog};
use polylora_kernels::extent::SiteId;

const HIDDEN: usize = 8;
const INNER: usize = 16;

/// Two layers of BERT's modules; every row of its weights has norm 1.
pub struct TinyBase(SiteCatalog);

impl TinyBase {
    pub fn new() -> Self {
        let modules = [
            ("attention.self.query", HIDDEN, HIDDEN, 0, 0),
            ("attention.self.key", HIDDEN, HIDDEN, 0, HIDDEN),
            ("attention.self.value", HIDDEN, HIDDEN, 0, 2 * HIDDEN),
            ("attention.output.dense", HIDDEN, HIDDEN, 1, 0),
            ("intermediate.dense", HIDDEN, INNER, 2, 0),
            ("output.dense", INNER, HIDDEN, 3, 0),
        ];
        let mut sites = vec![];
        for layer in 0..2u32 {
            for (module, in_width, out_width, group, offset) in modules {
                let (id, name) = (SiteId(sites.len() as u32), format!("encoder.layer.{layer}.{module}"));
                sites.push(Site { id, name, in_width, out_width, group: layer * 4 + group, offset });
            }
        }
        let pooler = IgnoredModule { name: "pooler.dense".into(), in_width: HIDDEN, out_width: HIDDEN };
        let catalog = SiteCatalog::new(sites)
            .with_ignored(vec![pooler])
            .with_embeddings(vec!["embeddings.word_embeddings".into()])
            .with_prefixes(vec!["bert.".into()]);
        Self(catalog)
    }
}

impl BaseModel for TinyBase {
    fn catalog(&self) -> &SiteCatalog {
        &self.0
    }

    fn digest(&self) -> Digest {
        Digest([3; 32])
    }

    fn dora_row_norms(&self, site: SiteId, _delta: LowRank<'_>) -> Vec<f32> {
        vec![1.0; self.0.site(site).out_width]
    }
}
