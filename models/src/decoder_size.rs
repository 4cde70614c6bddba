//! What a decoder must do: bytes that a step reads, and operations of a prompt.

use polylora_kernels::WeightCoding;
use polylora_kernels::device::OpenDevice;

use crate::DecoderConfig;

/// The size of a decoder on a device.
#[derive(Clone, Debug)]
pub struct DecoderSize {
    config: DecoderConfig,
    /// Bytes of a weight of a linear layer.
    weight: f64,
    /// Bytes of an entry of the embedding table.
    entry: f64,
}

impl DecoderSize {
    /// Of a decoder whose weights are held as `on` has them.
    pub fn new(config: &DecoderConfig, on: &OpenDevice) -> Self {
        let entry = on.dtype.size() as f64;
        let weight = if on.weights == WeightCoding::Int8 { 1.0 } else { entry };
        Self { config: config.clone(), weight, entry }
    }

    /// Bytes of all weights as they are held: those of the linear layers and the head, and the embedding table, which stands
    /// apart from them whether it is tied to the head or not.
    pub fn held_bytes(&self) -> f64 {
        self.step_bytes() + self.table() * self.entry
    }

    /// Bytes of weights that every step reads, whatever its batch: those of the linear layers and the head.
    pub fn step_bytes(&self) -> f64 {
        self.config.parameters_of_a_step() as f64 * self.weight
    }

    /// Operations of a prompt of so many tokens up to the logits of its last one; a multiply-add counts two.
    pub fn prompt_flops(&self, tokens: usize) -> f64 {
        let DecoderConfig { heads, num_hidden_layers, .. } = &self.config;
        let tokens = tokens as f64;
        let layers = self.config.parameters_of_a_step() as f64 - self.table();
        // Each token's queries meet the keys and the values of those before it and its own.
        let attention = (num_hidden_layers * heads.query * heads.width) as f64 * tokens * (tokens + 1.0);
        2.0 * (layers * tokens + self.table() + attention)
    }

    fn table(&self) -> f64 {
        self.config.vocab_size as f64 * self.config.hidden_size as f64
    }
}
