//! Why a request has no embedding.

/// Why a request has no embedding. The message says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// The request has no inputs.
    #[error("the request has no inputs: send at least one text or list of token ids")]
    NoInputs,
    /// An input is the empty string or an empty list of token ids.
    #[error("input {index} is empty: every input needs at least one character or token id")]
    EmptyInput {
        /// Index of the input.
        index: usize,
    },
    /// More inputs than the server takes in one request.
    #[error("the request has {found} inputs, at most {max} are taken (--max-client-batch-size): split it")]
    TooManyInputs {
        /// Inputs found.
        found: usize,
        /// Inputs allowed.
        max: usize,
    },
    /// A text has more characters than the server takes, whatever would be cut off.
    #[error("input {index} has {found} characters, at most {max} are taken (--max-input-chars): split it")]
    TooManyCharacters {
        /// Index of the input.
        index: usize,
        /// Characters found.
        found: usize,
        /// Characters allowed.
        max: usize,
    },
    /// An input is longer than the model's limit and truncation is off.
    #[error(
        "input {index} has {tokens} tokens, the model takes at most {max}: shorten it or ask for truncation (--auto-truncate)"
    )]
    TooLong {
        /// Index of the input.
        index: usize,
        /// Tokens found, special tokens included.
        tokens: usize,
        /// Tokens allowed.
        max: usize,
    },
    /// The reply would hold more tokens than one reply may.
    #[error("the inputs have {found} tokens, a reply tells of at most {max}: split the request")]
    TooManyTokens {
        /// Tokens found.
        found: usize,
        /// Tokens allowed.
        max: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("input {index} has token id {token}, the vocabulary has {vocab_size} ids from 0")]
    TokenOutOfVocabulary {
        /// Index of the input.
        index: usize,
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The tokenizer failed on an input.
    #[error("input {index} could not be tokenised: {reason}")]
    Tokenize {
        /// Index of the input.
        index: usize,
        /// The tokenizer's words.
        reason: String,
    },
    /// `dimensions` is zero or above the model's width.
    #[error("dimensions is {found}, the model gives 1 to {max}")]
    DimensionsOutOfRange {
        /// Asked for.
        found: usize,
        /// Width of the model.
        max: usize,
    },
    /// The model has no such prompt.
    #[error("the model has no prompt named `{name}`; it has: {known}")]
    UnknownPrompt {
        /// Asked for.
        name: String,
        /// The names that exist, comma-separated, or `none`.
        known: String,
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
    /// More requests in flight than the server takes.
    #[error("{limit} requests are in flight, which is the limit: try again shortly")]
    Overloaded {
        /// The limit.
        limit: usize,
    },
    /// More inputs in flight, over all requests, than the server holds.
    #[error("{limit} inputs are in flight, which is the limit: try again shortly or send fewer at once")]
    QueueFull {
        /// The limit.
        limit: usize,
    },
    /// The adapter is larger than the whole device pool, so no eviction can make room for it.
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

impl EmbedError {
    /// A short name for metrics and wire formats, `snake_case`; a closed set.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoInputs => "no_inputs",
            Self::EmptyInput { .. } => "empty_input",
            Self::TooManyInputs { .. } => "too_many_inputs",
            Self::TooManyCharacters { .. } => "text_too_long",
            Self::TooLong { .. } => "too_long",
            Self::TooManyTokens { .. } => "too_many_tokens",
            Self::TokenOutOfVocabulary { .. } => "token_out_of_vocabulary",
            Self::Tokenize { .. } => "tokenize",
            Self::DimensionsOutOfRange { .. } => "dimensions_out_of_range",
            Self::UnknownPrompt { .. } => "unknown_prompt",
            Self::UnknownAdapter { .. } => "unknown_adapter",
            Self::AdapterInvalid { .. } => "adapter_invalid",
            Self::Overloaded { .. } => "overloaded",
            Self::QueueFull { .. } => "queue_full",
            Self::AdapterTooLarge { .. } => "adapter_too_large",
            Self::ShuttingDown => "shutting_down",
            Self::Unavailable { .. } => "unavailable",
            Self::Internal { .. } => "internal",
        }
    }

    /// Whose the error is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Overloaded { .. } | Self::QueueFull { .. } | Self::ShuttingDown => Blame::Load,
            Self::Unavailable { .. } | Self::Internal { .. } => Blame::Server,
            _ => Blame::Client,
        }
    }
}

/// Whose an error is, so that a caller knows whether to change, to wait or to complain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request must change.
    Client,
    /// The same request may succeed later.
    Load,
    /// The server failed.
    Server,
}
