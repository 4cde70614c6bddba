//! Log-probabilities of the tokens of a prompt: judged step by step, told as a whole.
//!
//! The logits of a step are let go as soon as they have judged the step's part of the prompt, so what a long prompt takes
//! beside its own length is bounded by [`most_targets`].

use std::num::NonZeroUsize;

use polylora_generation::{Detokenizer, DrawScratch, LogitsError, SpecialTokens, TokenLogprobs, TokenText};

use super::told_token::told_token;
use crate::GeneratedToken;

/// Bytes of logits that one step may have for prompts that are scored.
const MOST_BYTES: usize = 64 << 20;

/// Tokens of prompts that one step may judge, for logits of `vocab_size` token ids.
pub(super) fn most_targets(vocab_size: usize) -> NonZeroUsize {
    NonZeroUsize::new(MOST_BYTES / vocab_size.saturating_mul(size_of::<f32>()).max(1))
        .unwrap_or(NonZeroUsize::MIN)
}

/// The tokens of a prompt that were judged so far.
#[derive(Clone, Debug)]
pub(crate) struct PromptScores {
    top: usize,
    /// One a token; the first is judged by nothing.
    scores: Vec<Option<TokenLogprobs>>,
}

impl PromptScores {
    /// Of a prompt of `tokens` tokens, none was judged; with each, `top` likeliest ones are to be told.
    pub(super) fn new(tokens: usize, top: u32) -> Self {
        Self { top: top as usize, scores: vec![None; tokens] }
    }

    /// Judges the token at `position` by the logits `[vocabulary]` of the position before it. A second judgement, after a
    /// preemption, is like the first.
    ///
    /// # Errors
    /// When the logits give no distribution.
    pub(super) fn judge(
        &mut self,
        position: usize,
        token: u32,
        logits: &[f32],
        scratch: &mut DrawScratch,
    ) -> Result<(), LogitsError> {
        let score = TokenLogprobs::of(logits, token, self.top, scratch)?;
        if let Some(place) = self.scores.get_mut(position) {
            *place = Some(score);
        }
        Ok(())
    }

    /// The prompt's tokens with what they were judged to be. Their offsets are those in the prompt's text, to which special
    /// tokens belong or not.
    pub(super) fn told(
        self,
        prompt: &[u32],
        special: SpecialTokens,
        door: &dyn TokenText,
    ) -> Vec<GeneratedToken> {
        let mut text = Detokenizer::new(&[], special, door);
        let mut characters = 0;
        let tokens = prompt.iter().zip(self.scores).map(|(token, score)| {
            let told = told_token(door, *token, characters, score);
            characters += text.push(*token, door).chars().count();
            told
        });
        tokens.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_judges_something_whatever_the_vocabulary_is() {
        assert_eq!(most_targets(1 << 17).get(), 128);
        assert_eq!(most_targets(usize::MAX).get(), 1);
        assert_eq!(most_targets(0).get(), MOST_BYTES);
    }
}
