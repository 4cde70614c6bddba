//! Operations that the mathematics of an encoder needs: a multiply-add counts two, nothing else counts.

use polylora_models::BertConfig;

/// Sizes of an encoder.
#[derive(Clone, Copy, Debug)]
pub struct EncoderWork {
    layers: usize,
    hidden: usize,
    inner: usize,
}

impl EncoderWork {
    /// Of the encoder that a configuration describes.
    pub fn of(config: &BertConfig) -> Self {
        let (layers, hidden) = (config.num_hidden_layers, config.hidden_size);
        Self { layers, hidden, inner: config.intermediate_size }
    }

    /// One pass over `batch` texts of `tokens` tokens, without padding: the six products of each layer over all tokens, and
    /// in attention each token with each of its own text.
    pub fn of_pass(self, batch: usize, tokens: usize) -> f64 {
        let Self { layers, hidden, inner } = self;
        let linear = 2 * (4 * hidden * hidden + 2 * hidden * inner);
        let attention = 4 * hidden * tokens;
        layers as f64 * (batch * tokens) as f64 * (linear + attention) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_minilm_costs_21_million_beside_attention() {
        let minilm = EncoderWork { layers: 6, hidden: 384, inner: 1536 };
        assert_eq!(minilm.of_pass(1, 1), 21_233_664.0 + 6.0 * 4.0 * 384.0);
        assert_eq!(minilm.of_pass(10, 16), 160.0 * (21_233_664.0 + 16.0 * 6.0 * 4.0 * 384.0));
    }
}
