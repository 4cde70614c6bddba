//! Floating-point operations that LoRA adds to an encoder's ([`EncoderSize`]): a multiply-add counts two, nothing else counts.

use polylora_models::EncoderSize;

/// Which linear layers an adapter changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Query and value.
    QueryValue,
    /// Every linear layer of the encoder.
    AllLinear,
}

impl Targets {
    /// What LoRA of `rank` on them adds for `tokens` tokens.
    pub fn lora(self, size: EncoderSize, rank: usize, tokens: usize) -> f64 {
        let square = 2 * size.hidden;
        let widths = match self {
            Targets::QueryValue => 2 * square,
            Targets::AllLinear => 4 * square + 2 * (size.hidden + size.inner),
        };
        (size.layers * tokens * 2 * rank * widths) as f64
    }

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
    fn lora_on_all_linear_at_rank_8_adds_three_percent() {
        let size = EncoderSize::MINILM_L6;
        let share = Targets::AllLinear.lora(size, 8, 1600) / size.pass(&[16; 100]);
        assert!((0.030..0.033).contains(&share), "{share}");
    }

    #[test]
    fn the_modules_have_the_widths_that_are_counted() {
        let size = EncoderSize::MINILM_L6;
        for targets in [Targets::QueryValue, Targets::AllLinear] {
            let widths: usize = targets.modules(size).iter().map(|(_, i, o)| i + o).sum();
            assert_eq!(targets.lora(size, 4, 10), (6 * 10 * 2 * 4 * widths) as f64);
        }
    }
}
