//! Operations that the mathematics of an encoder needs: a multiply-add counts two, nothing else counts.

use crate::BertConfig;

/// Sizes of an encoder, and what a pass over it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderSize {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub inner: usize,
}

impl EncoderSize {
    /// all-MiniLM-L6-v2.
    pub const MINILM_L6: EncoderSize = EncoderSize { layers: 6, hidden: 384, inner: 1536 };

    /// Of the encoder that a configuration describes.
    pub fn of(config: &BertConfig) -> Self {
        let (layers, hidden) = (config.num_hidden_layers, config.hidden_size);
        Self { layers, hidden, inner: config.intermediate_size }
    }

    /// One pass over texts of `lengths` tokens, without padding: the six matrix products of each layer over all tokens,
    /// and in attention each token with each of its own text.
    pub fn pass(self, lengths: &[usize]) -> f64 {
        let tokens: usize = lengths.iter().sum();
        let pairs: usize = lengths.iter().map(|l| l * l).sum();
        let per_token = 2 * (4 * self.hidden * self.hidden + 2 * self.hidden * self.inner);
        (self.layers * (tokens * per_token + 4 * self.hidden * pairs)) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_minilm_costs_21_million_beside_attention() {
        let minilm = EncoderSize::MINILM_L6;
        assert_eq!(minilm.pass(&[1]), 21_233_664.0 + 6.0 * 4.0 * 384.0);
        assert_eq!(minilm.pass(&[16; 10]), 160.0 * (21_233_664.0 + 16.0 * 6.0 * 4.0 * 384.0));
    }
}
