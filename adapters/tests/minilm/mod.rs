//! The sites of all-MiniLM-L6-v2 and its adapters among the fixtures, without the model.

use std::path::{Path, PathBuf};

use polylora_adapters::{BaseModel, Digest, IgnoredModule, LowRank, Site, SiteCatalog};
use polylora_kernels::extent::SiteId;

const WIDTH: usize = 384;
const INNER: usize = 4 * WIDTH;

/// Catalogue and digest of MiniLM; its weights are taken to have rows of norm 1.
pub struct MiniLm(SiteCatalog);

impl MiniLm {
    pub fn new() -> Self {
        let mut sites = vec![];
        for layer in 0..6u32 {
            // module, in, out, group within the layer, offset in the fused weight
            let modules = [
                ("attention.self.query", WIDTH, WIDTH, 0, 0),
                ("attention.self.key", WIDTH, WIDTH, 0, WIDTH),
                ("attention.self.value", WIDTH, WIDTH, 0, 2 * WIDTH),
                ("attention.output.dense", WIDTH, WIDTH, 1, 0),
                ("intermediate.dense", WIDTH, INNER, 2, 0),
                ("output.dense", INNER, WIDTH, 3, 0),
            ];
            for (module, in_width, out_width, group, offset) in modules {
                let (id, name) = (SiteId(sites.len() as u32), format!("encoder.layer.{layer}.{module}"));
                sites.push(Site { id, name, in_width, out_width, group: layer * 4 + group, offset });
            }
        }
        let pooler = IgnoredModule { name: "pooler.dense".into(), in_width: WIDTH, out_width: WIDTH };
        Self(SiteCatalog::new(sites).with_ignored(vec![pooler]).with_prefixes(vec!["bert.".into()]))
    }
}

impl BaseModel for MiniLm {
    fn catalog(&self) -> &SiteCatalog {
        &self.0
    }

    fn digest(&self) -> Digest {
        Digest([6; 32])
    }

    fn dora_row_norms(&self, site: SiteId, _delta: LowRank<'_>) -> Vec<f32> {
        vec![1.0; self.0.site(site).out_width]
    }
}

/// A folder of the fixtures, e.g. `adapters/qv_r8`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/minilm").join(path)
}

/// Copies one adapter to `to`, which is made.
pub fn copy_adapter(from: &str, to: &Path) {
    std::fs::create_dir_all(to).expect("the folder can be made");
    for file in std::fs::read_dir(fixture(from)).expect("the fixture is there") {
        let file = file.expect("it can be listed");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("it can be copied");
    }
}
