//! Why a sequence ended.

/// Why a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// It came to its end, or to one that the client named.
    Stop(StopMatch),
    /// It has as many tokens as it may have.
    Length,
    /// Nobody waits for it any more, or the server stops.
    Abort,
}

/// What ended a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopMatch {
    /// The model's end-of-sequence token with this id.
    EndOfSequence(u32),
    /// One of the `stop_token_ids`.
    Token(u32),
    /// One of the `stop` strings.
    Text(String),
}

impl FinishReason {
    /// Its name in OpenAI's API, and vLLM's for what that does not know.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stop(_) => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
        }
    }
}
