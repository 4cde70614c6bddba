//! What every encoder family offers.

use burn::tensor::Tensor;
use polylora_adapters::SiteCatalog;
use polylora_kernels::{Linear, LoraBatch};

use crate::PackedBatch;

/// An encoder over packed rows.
pub trait Encoder: Send + Sync {
    /// The last hidden states, `[T, width]`, each row through its adapter.
    fn forward(&self, batch: &PackedBatch, lora: &LoraBatch) -> Tensor<2>;
    /// The sites that adapters may change.
    fn catalog(&self) -> &SiteCatalog;
    /// The fused layer of a site group.
    ///
    /// # Panics
    /// When the group is of another model.
    fn layer_of(&self, group: u32) -> &Linear;
}
