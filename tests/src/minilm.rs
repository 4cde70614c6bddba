//! The real all-MiniLM-L6-v2 and its adapters through the library.

use std::path::PathBuf;
use std::sync::Arc;

use polylora_adapters::{AdapterManifest, BaseModel, FileTrust, LoadedAdapter};
use polylora_hub::{Catalogue, HubConfig, Puller};
use polylora_kernels::device::{DTypeSpec, DeviceSpec, open};
use polylora_kernels::{AdapterMemory, LoraBatch, PlacedAdapter, segments_of};
use polylora_models::EmbeddingModel;

use crate::fixtures;

/// The model's directory, fetched and verified when it is not there yet.
pub fn minilm_dir() -> PathBuf {
    let config = HubConfig::from_env().expect("settings of the cache");
    let model = Puller::new(Catalogue::builtin(), config).pull("all-MiniLM-L6-v2");
    model.expect("all-MiniLM-L6-v2 can be had").path
}

/// The model on the CPU in f32, with the adapters that were loaded for it.
pub struct Bench {
    /// The model.
    pub model: Arc<EmbeddingModel>,
    /// Adapters by index.
    pub adapters: Vec<LoadedAdapter>,
}

impl Bench {
    /// The real model with the named adapters of `fixtures/minilm/adapters`.
    pub fn new(adapters: &[String]) -> Self {
        let cpu = open(DeviceSpec::Cpu, DTypeSpec::F32).expect("a cpu");
        let model = Arc::new(EmbeddingModel::load(&minilm_dir(), &cpu).expect("the real model loads"));
        let adapters = adapters.iter().map(|name| {
            let folder = fixtures("minilm/adapters").join(name);
            let manifest = AdapterManifest::inspect(&folder, FileTrust::WithinFolder, model.catalog());
            manifest.expect("inspects").load(model.as_ref()).expect("loads")
        });
        Self { adapters: adapters.collect(), model: model.clone() }
    }

    /// Embeds rows of ids, each through the adapter of its index, in one batch.
    pub fn embed(&self, rows: &[(&[u32], Option<usize>)]) -> (Vec<Vec<f32>>, u64) {
        let placed = |a: &LoadedAdapter| PlacedAdapter { extent: a.extent.clone(), offset: 0 };
        let segments = segments_of(rows.iter().map(|(ids, adapter)| (ids.len(), *adapter)));
        let adapters = self.adapters.iter().map(placed).collect();
        let lora = LoraBatch::new(segments, adapters, AdapterMemory::HostAlias);
        let ids: Vec<&[u32]> = rows.iter().map(|r| r.0).collect();
        (self.model.embed(&ids, &lora).expect("embeds"), lora.launches())
    }
}
