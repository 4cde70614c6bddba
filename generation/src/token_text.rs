//! The door to a tokenizer's vocabulary.

use crate::sampling_params::SamplingParams;

/// Turns token ids into text.
pub trait TokenText {
    /// The text of `tokens`, decoded together. Bytes that are no UTF-8 become U+FFFD; ids that the vocabulary has not have
    /// no text.
    fn text_of(&self, tokens: &[u32], special: SpecialTokens) -> String;
}

/// What becomes of special tokens in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// They have no text.
    Skip,
    /// They are written out.
    Keep {
        /// Whether the tokenizer may set them apart by spaces.
        spaces_between: bool,
    },
}

impl SpecialTokens {
    /// What the client asked for.
    pub fn of(params: &SamplingParams) -> Self {
        match params.skip_special_tokens {
            true => Self::Skip,
            false => Self::Keep { spaces_between: params.spaces_between_special_tokens },
        }
    }
}
