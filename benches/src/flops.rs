//! Floating-point operations that the mathematics needs: a multiply-add counts two, nothing else counts.

/// Sizes of an encoder, and what a pass over it needs.
#[derive(Clone, Copy, Debug)]
pub struct EncoderSize {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub inner: usize,
}

/// Which linear layers an adapter changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Query and value.
    QueryValue,
    /// Every linear layer of the encoder.
    AllLinear,
}

impl EncoderSize {
    /// all-MiniLM-L6-v2.
    pub const MINILM_L6: EncoderSize = EncoderSize { layers: 6, hidden: 384, inner: 1536 };

    /// One pass over texts of `lengths` tokens, without padding: the six matrix products of each layer over all tokens,
    /// and in attention each token with each of its own text.
    pub fn pass(self, lengths: &[usize]) -> f64 {
        let tokens: usize = lengths.iter().sum();
        let pairs: usize = lengths.iter().map(|l| l * l).sum();
        let per_token = 2 * (4 * self.hidden * self.hidden + 2 * self.hidden * self.inner);
        (self.layers * (tokens * per_token + 4 * self.hidden * pairs)) as f64
    }

    /// What LoRA of `rank` on `targets` adds for `tokens` tokens.
    pub fn lora(self, targets: Targets, rank: usize, tokens: usize) -> f64 {
        let square = 2 * self.hidden;
        let widths = match targets {
            Targets::QueryValue => 2 * square,
            Targets::AllLinear => 4 * square + 2 * (self.hidden + self.inner),
        };
        (self.layers * tokens * 2 * rank * widths) as f64
    }
}

impl Targets {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Targets::QueryValue => "q,v",
            Targets::AllLinear => "all-linear",
        }
    }

    /// Modules within one layer of a Hugging Face BERT, with the widths of input and output.
    pub fn modules(self, size: EncoderSize) -> Vec<(&'static str, usize, usize)> {
        let (hidden, inner) = (size.hidden, size.inner);
        let all = [
            ("attention.self.query", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", hidden, inner),
            ("output.dense", inner, hidden),
        ];
        match self {
            Targets::QueryValue => all[..2].to_vec(),
            Targets::AllLinear => all.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_minilm_costs_21_mflop_beside_attention() {
        let one = EncoderSize::MINILM_L6.pass(&[1]);
        assert_eq!(one, 21_233_664.0 + 6.0 * 4.0 * 384.0);
    }

    #[test]
    fn lora_on_all_linear_at_rank_8_adds_three_percent() {
        let size = EncoderSize::MINILM_L6;
        let share = size.lora(Targets::AllLinear, 8, 1600) / size.pass(&[16; 100]);
        assert!((0.030..0.033).contains(&share), "{share}");
    }

    #[test]
    fn the_modules_have_the_widths_that_are_counted() {
        let size = EncoderSize::MINILM_L6;
        for targets in [Targets::QueryValue, Targets::AllLinear] {
            let widths: usize = targets.modules(size).iter().map(|(_, i, o)| i + o).sum();
            assert_eq!(size.lora(targets, 4, 10), (6 * 10 * 2 * 4 * widths) as f64);
        }
    }
}
