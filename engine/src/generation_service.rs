//! The door between a generation engine and whoever serves it.

use std::time::Duration;

use crate::{
    AdapterInfo, BoxFuture, GenerateError, GenerateRequest, GenerationStream, Health, Prompt, Snapshot,
    TextToken,
};

/// The base model that generates, as clients may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LlmInfo {
    /// Name it is served under, e.g. `SmolLM2-135M-Instruct`.
    pub name: String,
    /// Folder or catalogue name it was loaded from.
    pub root: String,
    /// Content digest of the weights and config, lower-case hex SHA-256.
    pub digest: String,
    /// Tokens that prompt and output may have together.
    pub max_model_len: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Compute dtype, e.g. `bf16`.
    pub dtype: String,
    /// Device, e.g. `cpu`.
    pub device: String,
    /// Whether it takes conversations.
    pub has_chat_template: bool,
}

/// A prompt on its way to its first token.
pub type StartingGeneration = BoxFuture<'static, Result<GenerationStream, GenerateError>>;

/// What a server may ask of a generation engine.
pub trait GenerationService: Send + Sync + 'static {
    /// Generates. Resolves when the prompt has been computed, with the first token at the latest; dropping the future
    /// aborts the request as dropping the stream does.
    ///
    /// # Errors
    /// Whatever is wrong with the request or keeps it from being started.
    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<GenerationStream, GenerateError>>;
    /// Generates for all prompts of a client's request, which is let in as a whole and counts as one. Each of the futures is that
    /// of [`GenerationService::generate`], in the requests' order; nothing happens for one that is not polled.
    ///
    /// # Errors
    /// When the request is not let in.
    fn generate_all(&self, requests: Vec<GenerateRequest>) -> Result<Vec<StartingGeneration>, GenerateError>;
    /// The tokens of a prompt as the model would see them through the adapter of that name, whatever the context is.
    ///
    /// # Errors
    /// As [`GenerationService::generate`], of what concerns the prompt and the adapter.
    fn tokenize(
        &self,
        prompt: Prompt,
        adapter: Option<String>,
        add_special_tokens: bool,
    ) -> BoxFuture<'_, Result<Vec<TextToken>, GenerateError>>;
    /// The text of token ids, special tokens included.
    ///
    /// # Errors
    /// Ids that are not in the vocabulary.
    fn detokenize(&self, ids: Vec<u32>) -> BoxFuture<'_, Result<String, GenerateError>>;
    /// The base model.
    fn model(&self) -> &LlmInfo;
    /// The adapters that are served, by name; refused ones are not among them.
    fn adapters(&self) -> Vec<AdapterInfo>;
    /// Whether requests can be served.
    fn health(&self) -> Health;
    /// What it does now and did lately: requests are rows there, and tokens those that were computed.
    fn snapshot(&self) -> Snapshot;
    /// The metrics in Prometheus' text format.
    fn render_metrics(&self) -> String;
    /// Refuses new requests with [`GenerateError::ShuttingDown`], serves those in flight for at most `timeout`, ends what is
    /// left with the same error and frees the device.
    fn shutdown(&self, timeout: Duration) -> BoxFuture<'_, ()>;
}
