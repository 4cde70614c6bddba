//! Why a request generates nothing, or no more.

use crate::{Blame, EmbedError};

/// Why a request generates nothing, or no more. The message says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// The prompt has no tokens.
    #[error("the prompt is empty: it needs at least one token")]
    EmptyPrompt,
    /// The prompt has more characters than the server takes.
    #[error("the prompt has {found} characters, at most {max} are taken (--max-input-chars)")]
    TooManyCharacters {
        /// Characters found.
        found: usize,
        /// Characters allowed.
        max: usize,
    },
    /// Prompt and output do not fit into the context.
    #[error(
        "this model's maximum context length is {context} tokens, the request needs {total}: {prompt} in the prompt and \
         {max_tokens} to generate; shorten the prompt or ask for fewer tokens (max_tokens)",
        total = prompt.saturating_add(*max_tokens)
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens to generate, at least 1.
        max_tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("token id {token} is not in the vocabulary, which has {vocab_size} ids from 0")]
    TokenOutOfVocabulary {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The tokenizer failed.
    #[error("the prompt could not be tokenised: {reason}")]
    Tokenize {
        /// The tokenizer's words.
        reason: String,
    },
    /// The model has no chat template.
    #[error("the model has no chat template: send the prompt as text to /v1/completions")]
    NoChatTemplate,
    /// The chat template refused the conversation.
    #[error("the chat template takes no such conversation: {reason}")]
    Template {
        /// The template's words.
        reason: String,
    },
    /// A field of the sampling has a value that cannot be.
    #[error("{reason}")]
    Sampling {
        /// The field, as in vLLM's API.
        field: &'static str,
        /// Field, value and bound.
        reason: String,
    },
    /// More copies than the server takes.
    #[error("{found} copies are asked for, from 1 to {max} are made of a prompt")]
    TooManyCopies {
        /// Copies asked for.
        found: usize,
        /// Copies allowed.
        max: usize,
    },
    /// No adapter of that name.
    #[error("no adapter named `{name}` is served")]
    UnknownAdapter {
        /// Asked for.
        name: String,
    },
    /// The adapter was found and refused.
    #[error("adapter `{name}` is refused: {reason}")]
    AdapterInvalid {
        /// Its name.
        name: String,
        /// The loader's words: file, tensor or field, found, expected.
        reason: String,
    },
    /// The adapter is larger than the whole device pool.
    #[error(
        "the adapter takes {bytes} bytes on the device, the whole adapter pool has {pool_bytes}: \
         raise --lora-memory or use an adapter of lower rank"
    )]
    AdapterTooLarge {
        /// Size of the adapter's extent.
        bytes: usize,
        /// Size of the pool.
        pool_bytes: usize,
    },
    /// More requests in flight than the server takes.
    #[error("{limit} requests are in flight, which is the limit: try again shortly")]
    Overloaded {
        /// The limit.
        limit: usize,
    },
    /// The server is stopping.
    #[error("the server is stopping and takes no new requests")]
    ShuttingDown,
    /// The engine has no device any more; another server may have one.
    #[error("the engine has no device any more: {reason}")]
    Unavailable {
        /// What is known.
        reason: String,
    },
    /// The computation failed; the request may be tried again.
    #[error("the computation failed: {reason}")]
    Internal {
        /// What is known.
        reason: String,
    },
}

impl GenerateError {
    /// A short name for metrics and wire formats, `snake_case`; a closed set.
    pub fn code(&self) -> &'static str {
        match self {
            Self::EmptyPrompt => "empty_prompt",
            Self::TooManyCharacters { .. } => "text_too_long",
            Self::TooLong { .. } => "too_long",
            Self::TokenOutOfVocabulary { .. } => "token_out_of_vocabulary",
            Self::Tokenize { .. } => "tokenize",
            Self::NoChatTemplate => "no_chat_template",
            Self::Template { .. } => "template",
            Self::Sampling { .. } => "sampling",
            Self::TooManyCopies { .. } => "too_many_copies",
            Self::UnknownAdapter { .. } => "unknown_adapter",
            Self::AdapterInvalid { .. } => "adapter_invalid",
            Self::AdapterTooLarge { .. } => "adapter_too_large",
            Self::Overloaded { .. } => "overloaded",
            Self::ShuttingDown => "shutting_down",
            Self::Unavailable { .. } => "unavailable",
            Self::Internal { .. } => "internal",
        }
    }

    /// Whose the error is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Overloaded { .. } | Self::ShuttingDown => Blame::Load,
            Self::Unavailable { .. } | Self::Internal { .. } => Blame::Server,
            _ => Blame::Client,
        }
    }
}

impl From<EmbedError> for GenerateError {
    /// An error about an adapter, admission or the device; others do not come of those.
    fn from(error: EmbedError) -> Self {
        match error {
            EmbedError::UnknownAdapter { name } => Self::UnknownAdapter { name },
            EmbedError::AdapterInvalid { name, reason } => Self::AdapterInvalid { name, reason },
            EmbedError::AdapterTooLarge { bytes, pool_bytes } => Self::AdapterTooLarge { bytes, pool_bytes },
            EmbedError::Overloaded { limit } | EmbedError::QueueFull { limit } => Self::Overloaded { limit },
            EmbedError::ShuttingDown => Self::ShuttingDown,
            EmbedError::Unavailable { reason } => Self::Unavailable { reason },
            other => Self::Internal { reason: other.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_with_its_numbers() {
        let error = GenerateError::TooLong { prompt: 4000, max_tokens: 200, context: 4096 };
        let told = error.to_string();
        assert!(told.starts_with("this model's maximum context length is 4096 tokens"), "{told}");
        assert!(["4200", "4000", "200"].iter().all(|number| told.contains(number)), "{told}");
        let most = GenerateError::TooLong { prompt: usize::MAX, max_tokens: 1, context: 1 };
        assert!(most.to_string().contains(&usize::MAX.to_string()));
    }
}
