//! Penalties for tokens that were there before.

use std::sync::Arc;

use crate::logit_edits::LogitEdits;
use crate::sampling_params::SamplingParams;

/// Repetition penalty (CTRL, Keskar et al., arXiv 1909.05858) for tokens of the prompt and of the output; presence and
/// frequency penalties (OpenAI's API) for those of the output alone. What a token of the prompt gets is what vLLM gives it.
#[derive(Clone, Debug)]
pub(crate) struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// The prompt's tokens by id, each once; shared by the sequences of a request.
    prompt: Arc<[u32]>,
    /// Those of the output, by id.
    drawn: Vec<Drawn>,
}

#[derive(Clone, Copy, Debug)]
struct Drawn {
    token: u32,
    /// How often.
    times: u32,
}

impl Penalties {
    /// `None` where the parameters ask for none: then nothing needs counting.
    pub fn new(params: &SamplingParams, prompt: &[u32]) -> Option<Self> {
        let SamplingParams { repetition_penalty, presence_penalty, frequency_penalty, .. } = *params;
        if repetition_penalty == 1.0 && presence_penalty == 0.0 && frequency_penalty == 0.0 {
            return None;
        }
        // Presence and frequency are of the output alone.
        let mut tokens = if repetition_penalty == 1.0 { Vec::new() } else { prompt.to_vec() };
        tokens.sort_unstable();
        tokens.dedup();
        Some(Self {
            repetition: repetition_penalty,
            presence: presence_penalty,
            frequency: frequency_penalty,
            prompt: tokens.into(),
            drawn: Vec::new(),
        })
    }

    /// Takes note of a drawn token.
    pub fn count(&mut self, token: u32) {
        match self.drawn.binary_search_by_key(&token, |drawn| drawn.token) {
            Ok(at) => self.drawn[at].times = self.drawn[at].times.saturating_add(1),
            Err(at) => self.drawn.insert(at, Drawn { token, times: 1 }),
        }
    }

    /// Lowers, or with negative penalties raises, the logits of the tokens seen.
    pub fn apply(&self, edits: &mut LogitEdits<'_>) {
        let repeated =
            |logit: f32| if logit > 0.0 { logit / self.repetition } else { logit * self.repetition };
        let is_drawn = |token: &u32| self.drawn.binary_search_by_key(token, |drawn| drawn.token).is_ok();
        for token in self.prompt.iter().filter(|token| !is_drawn(token)) {
            edits.change(*token, repeated);
        }
        for Drawn { token, times } in &self.drawn {
            edits.change(*token, |logit| repeated(logit) - self.frequency * *times as f32 - self.presence);
        }
    }
}
