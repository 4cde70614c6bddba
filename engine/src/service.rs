//! The door between the engine and whoever serves it: what a server may ask of it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::snapshot::Snapshot;
use crate::{DecodeRequest, EmbedError, EmbedReply, EmbedRequest, TextToken, TokenizeRequest};

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The base model, as clients may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Name it is served under, e.g. `all-MiniLM-L6-v2`.
    pub name: String,
    /// Folder or catalogue name it was loaded from.
    pub root: String,
    /// Content digest of the weights and config, lower-case hex SHA-256.
    pub digest: String,
    /// Width of an embedding.
    pub dimensions: usize,
    /// Tokens one input may have, special tokens included.
    pub max_tokens: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Compute dtype, e.g. `f32`.
    pub dtype: String,
    /// Device, e.g. `cpu`.
    pub device: String,
    /// Names of the model's prompts, sorted.
    pub prompts: Vec<String>,
    /// How tokens become one vector: `mean`, `cls`, `max` or `last_token`.
    pub pooling: String,
}

/// A served adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Name clients use.
    pub name: String,
    /// Where it was loaded from.
    pub root: String,
    /// Highest rank among its sites.
    pub max_rank: usize,
    /// Content digest in lower-case hex.
    pub digest: Option<String>,
    /// Whether it is in memory.
    pub is_loaded: bool,
    /// When the adapter was found, seconds since the Unix epoch.
    pub created: u64,
}

/// Whether requests can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// The probe has not come back yet.
    Starting,
    /// A probe went through the device.
    Ready,
    /// The worker is down or the engine is stopping.
    Unavailable,
}

/// The bounds of an engine, as clients may know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight.
    pub concurrent_requests: usize,
    /// Inputs in one request.
    pub client_batch_size: usize,
    /// Characters in one text.
    pub input_chars: usize,
    /// Tokens in one forward pass.
    pub batch_tokens: usize,
    /// Threads of the tokenizer.
    pub tokenize_threads: usize,
}

/// What a server may ask of an embedding engine.
pub trait EmbeddingService: Send + Sync + 'static {
    /// Embeds the inputs. Dropping the future frees the request's rows.
    fn embed(&self, request: EmbedRequest) -> BoxFuture<'_, Result<EmbedReply, EmbedError>>;
    /// The tokens of each text, as the model sees them.
    fn tokenize(&self, request: TokenizeRequest) -> BoxFuture<'_, Result<Vec<Vec<TextToken>>, EmbedError>>;
    /// The text of each list of token ids.
    fn decode(&self, request: DecodeRequest) -> BoxFuture<'_, Result<Vec<String>, EmbedError>>;
    /// The bounds that requests are judged by.
    fn limits(&self) -> Limits;
    /// The base model.
    fn model(&self) -> &ModelInfo;
    /// The adapters that are served, by name; refused ones are not among them.
    fn adapters(&self) -> Vec<AdapterInfo>;
    /// Whether requests can be served.
    fn health(&self) -> Health;
    /// The metrics in Prometheus' text format.
    fn render_metrics(&self) -> String;
    /// What the engine does now and did lately; cheap.
    fn snapshot(&self) -> Snapshot {
        Snapshot { device: self.model().device.clone(), ..Snapshot::default() }
    }
    /// Refuses new requests with [`EmbedError::ShuttingDown`], serves those in flight for at most `timeout`, answers what is
    /// left with the same error and frees the device. An engine that holds nothing has nothing to do.
    fn shutdown(&self, timeout: Duration) -> BoxFuture<'_, ()> {
        let _ = timeout;
        Box::pin(async {})
    }
}
