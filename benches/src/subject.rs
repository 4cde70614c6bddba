//! What is measured: the embedding model through the library, as the engine's runner drives it.

use std::path::Path;

use polylora_adapters::{AdapterManifest, BaseModel, FileTrust, LoadedAdapter};
use polylora_kernels::device::{DTypeSpec, DeviceSpec, open};
use polylora_kernels::{AdapterMemory, LoraBatch, PlacedAdapter, segments_of};
use polylora_models::EmbeddingModel;

use crate::{BenchError, rows};

/// The model on the CPU in f32.
pub struct Subject {
    /// The model.
    pub model: EmbeddingModel,
    /// Its device, with the instruction set.
    pub device: String,
}

impl Subject {
    /// Loads a model's directory.
    ///
    /// # Errors
    /// When it is none.
    pub fn load(dir: &Path) -> Result<Self, BenchError> {
        let cpu = open(DeviceSpec::Cpu, DTypeSpec::F32)?;
        Ok(Self { model: EmbeddingModel::load(dir, &cpu)?, device: cpu.name })
    }

    /// Embeds rows of ids through the base model.
    ///
    /// # Errors
    /// When a row does not fit.
    pub fn embed_base<R: AsRef<[u32]>>(&self, ids: &[R]) -> Result<Vec<Vec<f32>>, BenchError> {
        self.embed(ids, &[], &vec![None; ids.len()])
    }

    /// Embeds rows of ids, each through the adapter of its index. Rows of one adapter are put side by side first, as the
    /// engine does; the answers are in the order of the rows.
    ///
    /// # Errors
    /// When a row does not fit.
    pub fn embed<R: AsRef<[u32]>>(
        &self,
        ids: &[R],
        adapters: &[LoadedAdapter],
        adapter_of: &[Option<usize>],
    ) -> Result<Vec<Vec<f32>>, BenchError> {
        assert_eq!(ids.len(), adapter_of.len(), "one adapter or none for each row");
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|row| adapter_of[*row]);
        let packed: Vec<&[u32]> = order.iter().map(|row| ids[*row].as_ref()).collect();
        let segments = segments_of(order.iter().map(|row| (ids[*row].as_ref().len(), adapter_of[*row])));
        let placed = |a: &LoadedAdapter| PlacedAdapter { extent: a.extent.clone(), offset: 0 };
        let lora = LoraBatch::new(segments, adapters.iter().map(placed).collect(), AdapterMemory::HostAlias);
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
