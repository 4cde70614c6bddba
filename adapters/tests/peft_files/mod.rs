//! all-MiniLM-L6-v2's sites by hand, a base model with made-up weights, and the fixtures' files, read and written
//! by other means than the crate's own.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use polylora_adapters::{
    AdapterError, AdapterManifest, BaseModel, Digest, FileTrust, IgnoredModule, LoadedAdapter, LowRank, Site,
    SiteCatalog,
};
use polylora_kernels::extent::SiteId;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

pub const LAYERS: u32 = 6;
pub const HIDDEN: usize = 384;
pub const INTERMEDIATE: usize = 1536;

/// Name within a layer, input width, output width, group within a layer, offset within the group.
const SITES_OF_A_LAYER: [(&str, usize, usize, u32, usize); 6] = [
    ("attention.self.query", HIDDEN, HIDDEN, 0, 0),
    ("attention.self.key", HIDDEN, HIDDEN, 0, HIDDEN),
    ("attention.self.value", HIDDEN, HIDDEN, 0, 2 * HIDDEN),
    ("attention.output.dense", HIDDEN, HIDDEN, 1, 0),
    ("intermediate.dense", HIDDEN, INTERMEDIATE, 2, 0),
    ("output.dense", INTERMEDIATE, HIDDEN, 3, 0),
];

/// The catalogue of MiniLM.
pub fn catalog() -> SiteCatalog {
    let mut sites = vec![];
    for layer in 0..LAYERS {
        for (name, in_width, out_width, group, offset) in SITES_OF_A_LAYER {
            sites.push(Site {
                id: SiteId(sites.len() as u32),
                name: format!("encoder.layer.{layer}.{name}"),
                in_width,
                out_width,
                group: layer * 4 + group,
                offset,
            });
        }
    }
    let embeddings = ["word_embeddings", "position_embeddings", "token_type_embeddings"];
    SiteCatalog::new(sites)
        .with_ignored(vec![IgnoredModule {
            name: "pooler.dense".into(),
            in_width: HIDDEN,
            out_width: HIDDEN,
        }])
        .with_embeddings(embeddings.iter().map(|name| format!("embeddings.{name}")).collect())
        .with_prefixes(vec!["bert.".into()])
}

/// A base model whose weights are a function of the site and the place.
#[derive(Debug)]
pub struct MadeUpBase {
    pub catalog: SiteCatalog,
    pub digest: Digest,
}

impl MadeUpBase {
    pub fn new() -> Self {
        Self { catalog: catalog(), digest: Digest([7; 32]) }
    }

    /// `W[row, column]` of `site`.
    pub fn weight(site: SiteId, row: usize, column: usize) -> f32 {
        ((site.0 as usize * 7919 + row * 104_729 + column * 1_299_709) % 2003) as f32 / 10_015.0 - 0.1
    }
}

impl BaseModel for MadeUpBase {
    fn catalog(&self) -> &SiteCatalog {
        &self.catalog
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn dora_row_norms(&self, site: SiteId, delta: LowRank<'_>) -> Vec<f32> {
        let (in_width, out_width) = (self.catalog.site(site).in_width, self.catalog.site(site).out_width);
        let norm = |row: usize| {
            let mut merged: Vec<f32> = (0..in_width).map(|column| Self::weight(site, row, column)).collect();
            for r in 0..delta.rank {
                let factor = delta.scale * delta.b[row * delta.rank + r];
                for (value, a) in merged.iter_mut().zip(&delta.a[r * in_width..]) {
                    *value += factor * a;
                }
            }
            merged.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32
        };
        (0..out_width).map(norm).collect()
    }
}

/// The folder of MiniLM's fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/minilm")
}

/// The folder of an adapter that is valid.
pub fn adapter(name: &str) -> PathBuf {
    fixtures().join("adapters").join(name)
}

/// The folder of an adapter that is not.
pub fn bad(name: &str) -> PathBuf {
    fixtures().join("bad").join(name)
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Stored {
    pub fn f32(name: impl Into<String>, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    /// Filled with small numbers that depend on the place.
    pub fn filled(name: impl Into<String>, shape: &[usize]) -> Self {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i * 31 + 7) % 17) as f32 / 16.0 - 0.5).collect();
        Self::f32(name, shape, &values)
    }
}

/// The tensors of an adapter's file, by name.
pub fn read_tensors(folder: &Path) -> Vec<Stored> {
    let bytes = fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<Stored> = file
        .iter()
        .map(|(name, view)| Stored {
            name: name.into(),
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        })
        .collect();
    tensors.sort_by(|l, r| l.name.cmp(&r.name));
    tensors
}

/// The configuration of an adapter.
pub fn read_config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
}

/// A file of these tensors as the safetensors crate writes it.
pub fn safetensors_of(tensors: &[Stored]) -> Vec<u8> {
    let views = tensors.iter().map(|t| {
        let view = TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap();
        (t.name.as_str(), view)
    });
    safetensors::serialize(views, None).unwrap()
}

/// A file with the tensors' data, and their header's keys, in the order given.
pub fn safetensors_in_order(tensors: &[Stored]) -> Vec<u8> {
    let (mut entries, mut data) = (vec![], vec![]);
    for t in tensors {
        let begin = data.len();
        data.extend(&t.bytes);
        let entry =
            json!({"dtype": format!("{:?}", t.dtype), "shape": t.shape, "data_offsets": [begin, data.len()]});
        entries.push(format!("{}:{entry}", json!(t.name)));
    }
    let header = format!("{{{}}}", entries.join(","));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// An adapter in a folder of its own, which goes when this does.
pub struct TemporaryAdapter(tempfile::TempDir);

impl TemporaryAdapter {
    pub fn new(config: &Value, weights: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
        fs::write(folder.path().join("adapter_model.safetensors"), weights).unwrap();
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Inspects and loads an adapter of these tensors.
pub fn load(config: &Value, tensors: &[Stored]) -> Result<LoadedAdapter, AdapterError> {
    let base = MadeUpBase::new();
    let folder = TemporaryAdapter::new(config, &safetensors_of(tensors));
    AdapterManifest::inspect(folder.path(), FileTrust::WithinFolder, &base.catalog)?.load(&base)
}

/// Why it is refused.
pub fn refusal(config: &Value, tensors: &[Stored]) -> AdapterError {
    load(config, tensors).expect_err("it is refused")
}

/// Targets query of layers 0 to 2 at rank 2, alpha 4.
pub fn control() -> (Value, Vec<Stored>) {
    (read_config(&bad("_good_control")), read_tensors(&bad("_good_control")))
}

/// A and B of `module` at `rank`, where both widths are [`HIDDEN`].
pub fn pair(module: &str, rank: usize) -> [Stored; 2] {
    let name = |part: &str| format!("base_model.model.{module}.{part}.weight");
    [Stored::filled(name("lora_A"), &[rank, HIDDEN]), Stored::filled(name("lora_B"), &[HIDDEN, rank])]
}

/// The sites on which it has an effect.
pub fn sites(loaded: &LoadedAdapter) -> Vec<u32> {
    loaded.extent.layout().slots().iter().map(|slot| slot.shape.site.0).collect()
}
