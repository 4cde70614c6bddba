//! The real all-MiniLM-L6-v2 and its adapters through the library.

use std::path::PathBuf;
use std::sync::Arc;

use polylora_adapters::{AdapterManifest, BaseModel, FileTrust, LoadedAdapter};
use polylora_hub::{Catalogue, HubConfig, Puller};
use polylora_kernels::device::{DTypeSpec, DeviceSpec, OpenDevice, open};
use polylora_kernels::{AdapterMemory, LoraBatch, PlacedAdapter, segments_of};
use polylora_models::EmbeddingModel;

use crate::fixtures;

/// The model's directory, fetched and verified when it is not there yet.
pub fn minilm_dir() -> PathBuf {
    let config = HubConfig::from_env().expect("settings of the cache");
    let model = Puller::new(Catalogue::builtin(), config).pull("all-MiniLM-L6-v2");
    model.expect("all-MiniLM-L6-v2 can be had").path
}

/// The model on a device in f32, with the adapters that were loaded for it.
pub struct Bench {
    /// The model.
    pub model: Arc<EmbeddingModel>,
    /// Adapters by index.
    pub adapters: Vec<LoadedAdapter>,
    memory: AdapterMemory,
    offsets: Vec<usize>,
}

impl Bench {
    /// The real model on the CPU with the named adapters of `fixtures/minilm/adapters`.
    pub fn new(adapters: &[String]) -> Self {
        Self::on(&open(DeviceSpec::Cpu, DTypeSpec::F32).expect("a cpu"), adapters)
    }

    /// As [`Bench::new`], on any device.
    pub fn on(device: &OpenDevice, adapters: &[String]) -> Self {
        let model = Arc::new(EmbeddingModel::load(&minilm_dir(), device).expect("the real model loads"));
        let adapters = adapters.iter().map(|name| {
            let folder = fixtures("minilm/adapters").join(name);
            let manifest = AdapterManifest::inspect(&folder, FileTrust::WithinFolder, model.catalog());
            manifest.expect("inspects").load(model.as_ref()).expect("loads")
        });
        let adapters: Vec<LoadedAdapter> = adapters.collect();
        let mut values = 0;
        let offsets: Vec<usize> = adapters
            .iter()
            .map(|adapter| {
                let offset = values;
                values += adapter.extent.layout().len();
                offset
            })
            .collect();
        let mut memory = AdapterMemory::new(&device.device, device.dtype, values.max(1)).expect("memory");
        for (adapter, offset) in adapters.iter().zip(&offsets) {
            memory.store(*offset, &adapter.extent);
        }
        Self { adapters, model, memory, offsets }
    }

    /// Embeds rows of ids, each through the adapter of its index, in one batch.
    pub fn embed(&self, rows: &[(&[u32], Option<usize>)]) -> (Vec<Vec<f32>>, u64) {
        let placed = |(a, offset): (&LoadedAdapter, &usize)| PlacedAdapter {
            extent: a.extent.clone(),
            offset: *offset,
        };
        let segments = segments_of(rows.iter().map(|(ids, adapter)| (ids.len(), *adapter)));
        let adapters = self.adapters.iter().zip(&self.offsets).map(placed).collect();
        let lora = LoraBatch::new(segments, adapters, self.memory.clone());
        let ids: Vec<&[u32]> = rows.iter().map(|r| r.0).collect();
        (self.model.embed(&ids, &lora).expect("embeds"), lora.launches())
    }
}
