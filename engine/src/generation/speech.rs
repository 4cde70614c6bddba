//! What the copies of a request begin with, made once and before the owner thread has them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use polylora_generation::{SamplerSetup, SamplingParams, SequenceSampler, SequenceText, TokenText};

/// A prompt that was read, and how it goes on.
pub(crate) struct ReadPrompt {
    /// Its tokens.
    pub(crate) tokens: Arc<[u32]>,
    /// New tokens of each copy.
    pub(crate) max_tokens: NonZeroUsize,
    /// What its copies begin with.
    pub(crate) speech: Speech,
}

/// The first copy's sampler and text, with which the others share what does not change.
pub(crate) struct Speech {
    /// Draws its tokens.
    pub(crate) sampler: SequenceSampler,
    /// Makes text of them.
    pub(crate) text: SequenceText,
    /// Whether the tokens are told with their log-probabilities.
    pub(crate) wants_logprobs: bool,
    /// The same for the prompt's tokens, each with so many of the likeliest.
    pub(crate) prompt_logprobs: Option<u32>,
}

impl ReadPrompt {
    /// With checked parameters; `seed` stands in for one, `eos` ends the model's texts.
    pub(crate) fn new(
        tokens: Arc<[u32]>,
        params: &SamplingParams,
        seed: u64,
        eos: &[u32],
        door: &dyn TokenText,
    ) -> Self {
        let ends = if params.ignore_eos { &[] } else { eos };
        let setup = SamplerSetup { params, eos: ends, prompt: &tokens, seed, copy: 0 };
        let speech = Speech {
            sampler: SequenceSampler::new(&setup),
            text: SequenceText::new(params, eos, &tokens, door),
            wants_logprobs: params.logprobs.is_some(),
            prompt_logprobs: params.prompt_logprobs,
        };
        let max_tokens = params.max_tokens.and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
        Self { tokens, max_tokens, speech }
    }
}
