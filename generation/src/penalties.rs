//! Penalties for tokens that were there before.

use crate::logit_edits::LogitEdits;
use crate::sampling_params::SamplingParams;

/// Repetition penalty (CTRL, Keskar et al., arXiv 1909.05858) for tokens of the prompt and of the output; presence and
/// frequency penalties (OpenAI's API) for those of the output alone. What a token of the prompt gets is what vLLM gives it.
#[derive(Clone, Debug)]
pub(crate) struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// By token.
    seen: Vec<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    token: u32,
    /// How often it was drawn; 0 when it is in the prompt alone.
    drawn: u32,
}

impl Penalties {
    /// `None` where the parameters ask for none: then nothing needs counting.
    pub fn new(params: &SamplingParams, prompt: &[u32]) -> Option<Self> {
        let SamplingParams { repetition_penalty, presence_penalty, frequency_penalty, .. } = *params;
        if repetition_penalty == 1.0 && presence_penalty == 0.0 && frequency_penalty == 0.0 {
            return None;
        }
        let mut tokens = prompt.to_vec();
        tokens.sort_unstable();
        tokens.dedup();
        Some(Self {
            repetition: repetition_penalty,
            presence: presence_penalty,
            frequency: frequency_penalty,
            seen: tokens.into_iter().map(|token| Seen { token, drawn: 0 }).collect(),
        })
    }

    /// Takes note of a drawn token.
    pub fn count(&mut self, token: u32) {
        match self.seen.binary_search_by_key(&token, |seen| seen.token) {
            Ok(at) => self.seen[at].drawn = self.seen[at].drawn.saturating_add(1),
            Err(at) => self.seen.insert(at, Seen { token, drawn: 1 }),
        }
    }

    /// Lowers, or with negative penalties raises, the logits of the tokens seen.
    pub fn apply(&self, edits: &mut LogitEdits<'_>) {
        for seen in &self.seen {
            edits.change(seen.token, |logit| {
                let repeated = if logit > 0.0 { logit / self.repetition } else { logit * self.repetition };
                match seen.drawn {
                    0 => repeated,
                    times => repeated - self.frequency * times as f32 - self.presence,
                }
            });
        }
    }
}
