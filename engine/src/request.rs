//! What a caller asks for and what he gets back; no wire format, no tensor.

use std::time::Duration;

use polylora_adapters::{SplitKey, VersionId};
pub use polylora_models::RowOutput;

/// One text to embed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmbedInput {
    /// A text, tokenised by the engine.
    Text(String),
    /// Token ids, special tokens included as the caller wants them.
    Tokens(Vec<u32>),
}

/// The end of a text that is cut off when it is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TruncationSide {
    /// Its beginning.
    Left,
    /// Its end.
    #[default]
    Right,
}

/// A request for one embedding per input, all through the same adapter.
#[derive(Clone, Debug, Default)]
pub struct EmbedRequest {
    /// The inputs, in the order of the reply.
    pub inputs: Vec<EmbedInput>,
    /// Name of the adapter, or `name@version`; `None` is the base model.
    pub adapter: Option<String>,
    /// What stands for the client where an adapter's traffic is split; without one he gets the active version.
    pub split_key: Option<SplitKey>,
    /// Name of a prompt of the model that goes in front of each text.
    pub prompt_name: Option<String>,
    /// Cut the embedding to so many values and normalise it again, unless [`RowOutput::Raw`] is asked for.
    pub dimensions: Option<usize>,
    /// Cut inputs longer than the model's limit; otherwise they are refused.
    pub truncate: bool,
    /// Where they are cut.
    pub truncation_side: TruncationSide,
    /// What each input becomes.
    pub output: RowOutput,
}

/// The reply to an [`EmbedRequest`].
#[derive(Clone, Debug)]
pub struct EmbedReply {
    /// One embedding per input; with [`RowOutput::Tokens`] those of its tokens, one after the other.
    pub embeddings: Vec<Vec<f32>>,
    /// Tokens computed, special tokens included.
    pub tokens: usize,
    /// The adapter's version that answered; `None` for the base model.
    pub served_by: Option<ServedBy>,
    /// Why the base model answered in place of the adapter.
    pub fallback_reason: Option<String>,
    /// Where the time went.
    pub timings: Timings,
}

/// The version that answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedBy {
    /// Its number.
    pub id: VersionId,
    /// Who it is, for people: `name@version#digest8`.
    pub tag: String,
}

/// Where a request's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Tokenising.
    pub tokenize: Duration,
    /// From tokenised to picked by the worker.
    pub queue: Duration,
    /// On the device, batch mates included.
    pub compute: Duration,
}
