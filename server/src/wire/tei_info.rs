//! `GET /info` as text-embeddings-inference has it.

use polylora_engine::{Limits, ModelInfo};
use serde::Serialize;
use utoipa::ToSchema;

/// What is served, and within which bounds.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerInfo {
    /// The base model.
    pub model_id: String,
    /// Content digest of its weights and config, SHA-256 in hexadecimal.
    #[schema(required)]
    pub model_sha: Option<String>,
    /// Number format of weights and activations.
    pub model_dtype: String,
    /// The name that replies lead with, or the one that the path asks for.
    pub served_model_name: String,
    /// What the model does.
    pub model_type: ModelType,
    /// Requests in flight; more are answered 429.
    pub max_concurrent_requests: usize,
    /// Tokens of one input.
    pub max_input_length: usize,
    /// Tokens of one forward pass.
    pub max_batch_tokens: usize,
    /// Always `null`: a batch is bounded by its tokens.
    #[schema(required)]
    pub max_batch_requests: Option<usize>,
    /// Inputs of one request.
    pub max_client_batch_size: usize,
    /// Whether inputs above `max_input_length` are cut where the request does not say.
    pub auto_truncate: bool,
    /// Threads that tokenise.
    pub tokenization_workers: usize,
    /// Version of the server.
    pub version: &'static str,
    /// Always `null`.
    #[schema(required)]
    pub sha: Option<&'static str>,
    /// Always `null`.
    #[schema(required)]
    pub docker_label: Option<&'static str>,
}

/// What a model does.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelType {
    /// It embeds.
    pub embedding: EmbeddingKind,
}

/// How a model embeds.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingKind {
    /// How the tokens of a text become one vector.
    pub pooling: String,
}

impl ServerInfo {
    /// What there is to say of `model`, which was asked for as `name`.
    pub fn new(model: &ModelInfo, limits: Limits, name: &str, auto_truncate: bool) -> Self {
        Self {
            model_id: model.name.clone(),
            model_sha: Some(model.digest.clone()),
            model_dtype: long_dtype(&model.dtype).to_owned(),
            served_model_name: name.to_owned(),
            model_type: ModelType { embedding: EmbeddingKind { pooling: model.pooling.clone() } },
            max_concurrent_requests: limits.concurrent_requests,
            max_input_length: model.max_tokens,
            max_batch_tokens: limits.batch_tokens,
            max_batch_requests: None,
            max_client_batch_size: limits.client_batch_size,
            auto_truncate,
            tokenization_workers: limits.tokenize_threads,
            version: env!("CARGO_PKG_VERSION"),
            sha: None,
            docker_label: None,
        }
    }
}

/// A number format as PyTorch names it.
pub(super) fn long_dtype(dtype: &str) -> &str {
    match dtype {
        "f32" => "float32",
        "f16" => "float16",
        "bf16" => "bfloat16",
        other => other,
    }
}
