//! What is measured: the embedding model through the library, as the engine's runner drives it.

use std::path::Path;

use burn::tensor::{DType, Device};
use polylora_adapters::{AdapterManifest, BaseModel, FileTrust, LoadedAdapter};
use polylora_kernels::device::{DTypeSpec, DeviceSpec, OpenDevice, open};
use polylora_kernels::{AdapterMemory, LoraBatch, PlacedAdapter, segments_of};
use polylora_models::EmbeddingModel;

use crate::{BenchError, rows};

/// The model on a device.
pub struct Subject {
    /// The model.
    pub model: EmbeddingModel,
    /// Its device: with the instruction set or the card.
    pub device: String,
    /// The device as it was opened, with its number formats.
    pub on: OpenDevice,
}

/// Adapters in the memory that a device computes from.
pub struct AdapterSet {
    placed: Vec<PlacedAdapter>,
    memory: AdapterMemory,
}

impl AdapterSet {
    /// Stores `adapters` one after the other; on the CPU they stay where they are.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn new(device: &Device, dtype: DType, adapters: &[LoadedAdapter]) -> Result<Self, BenchError> {
        let capacity = adapters.iter().map(|a| a.extent.layout().len()).sum();
        let mut memory = AdapterMemory::new(device, dtype, capacity)?;
        let (mut offset, mut placed) = (0, vec![]);
        for adapter in adapters {
            memory.store(offset, &adapter.extent);
            placed.push(PlacedAdapter { extent: adapter.extent.clone(), offset });
            offset += adapter.extent.layout().len();
        }
        Ok(Self { placed, memory })
    }
}

impl Subject {
    /// Loads a model's directory on the CPU.
    ///
    /// # Errors
    /// When it is none.
    pub fn load(dir: &Path, dtype: DTypeSpec) -> Result<Self, BenchError> {
        Self::load_on(dir, &open(DeviceSpec::Cpu, dtype)?)
    }

    /// Loads a model's directory on a device.
    ///
    /// # Errors
    /// When it is none.
    pub fn load_on(dir: &Path, on: &OpenDevice) -> Result<Self, BenchError> {
        Ok(Self { model: EmbeddingModel::load(dir, on)?, device: on.name.clone(), on: on.clone() })
    }

    /// Brings adapters into the memory of the model's device.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn place(&self, adapters: &[LoadedAdapter]) -> Result<AdapterSet, BenchError> {
        AdapterSet::new(self.model.device(), self.model.dtype(), adapters)
    }

    /// Embeds rows of ids through the base model.
    ///
    /// # Errors
    /// When a row does not fit.
    pub fn embed_base<R: AsRef<[u32]>>(&self, ids: &[R]) -> Result<Vec<Vec<f32>>, BenchError> {
        self.embed(ids, &[], &vec![None; ids.len()])
    }

    /// [`Self::embed_placed`] with adapters that are brought into place for this batch only.
    ///
    /// # Errors
    /// When a row does not fit.
    pub fn embed<R: AsRef<[u32]>>(
        &self,
        ids: &[R],
        adapters: &[LoadedAdapter],
        adapter_of: &[Option<usize>],
    ) -> Result<Vec<Vec<f32>>, BenchError> {
        if adapters.is_empty() {
            let none = AdapterSet { placed: vec![], memory: AdapterMemory::HostAlias };
            return self.embed_placed(ids, &none, adapter_of);
        }
        self.embed_placed(ids, &self.place(adapters)?, adapter_of)
    }

    /// Embeds rows of ids, each through the adapter of its index. Rows of one adapter are put side by side first, as the
    /// engine does; the answers are in the order of the rows.
    ///
    /// # Errors
    /// When a row does not fit.
    pub fn embed_placed<R: AsRef<[u32]>>(
        &self,
        ids: &[R],
        adapters: &AdapterSet,
        adapter_of: &[Option<usize>],
    ) -> Result<Vec<Vec<f32>>, BenchError> {
        assert_eq!(ids.len(), adapter_of.len(), "one adapter or none for each row");
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|row| adapter_of[*row]);
        let packed: Vec<&[u32]> = order.iter().map(|row| ids[*row].as_ref()).collect();
        let segments = segments_of(order.iter().map(|row| (ids[*row].as_ref().len(), adapter_of[*row])));
        let lora = LoraBatch::new(segments, adapters.placed.clone(), adapters.memory.clone());
        let embedded = self.model.embed(&packed, &lora)?;
        let has_adapters = adapter_of.iter().any(Option::is_some);
        assert_eq!(lora.launches() > 0, has_adapters, "LoRA ran when, and only when, a row has an adapter");
        let mut answers = vec![vec![]; ids.len()];
        for (row, embedding) in order.into_iter().zip(embedded) {
            answers[row] = embedding;
        }
        Ok(answers)
    }

    /// Tokenises texts, side by side.
    ///
    /// # Errors
    /// When the tokenizer refuses one.
    pub fn encode(&self, texts: &[String]) -> Result<Vec<Vec<u32>>, BenchError> {
        rows::encode(self.model.tokenizer(), texts)
    }
}

/// Loads a PEFT folder for `model`.
///
/// # Errors
/// When it is refused.
pub fn load_adapter(folder: &Path, model: &EmbeddingModel) -> Result<LoadedAdapter, BenchError> {
    Ok(AdapterManifest::inspect(folder, FileTrust::WithinFolder, model.catalog())?.load(model)?)
}
