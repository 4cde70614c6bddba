//! `GET /info` as text-generation-inference has it, of a server that only generates text.

use polylora_engine::LlmInfo;
use serde::Serialize;
use utoipa::ToSchema;

use super::tei_info::long_dtype;

/// What is served, and within which bounds.
#[derive(Debug, Serialize, ToSchema)]
pub struct LlmServerInfo {
    /// The base model.
    pub model_id: String,
    /// Content digest of its weights and config, SHA-256 in hexadecimal.
    #[schema(required)]
    pub model_sha: Option<String>,
    /// Number format of weights and activations.
    pub model_dtype: String,
    /// Where it computes.
    pub model_device_type: String,
    /// What the model does.
    pub model_pipeline_tag: &'static str,
    /// The name that replies lead with, or the one that the path asks for.
    pub served_model_name: String,
    /// Requests in flight; more are answered 429.
    pub max_concurrent_requests: usize,
    /// Tokens of a prompt.
    pub max_input_tokens: usize,
    /// Tokens of prompt and reply together.
    pub max_total_tokens: usize,
    /// Version of the server.
    pub version: &'static str,
    /// Always `null`.
    #[schema(required)]
    pub sha: Option<&'static str>,
    /// Always `null`.
    #[schema(required)]
    pub docker_label: Option<&'static str>,
}

impl LlmServerInfo {
    /// What there is to say of `model`, which was asked for as `name`, where so many requests may be in flight.
    pub fn new(model: &LlmInfo, name: &str, max_concurrent_requests: usize) -> Self {
        Self {
            model_id: model.name.clone(),
            model_sha: Some(model.digest.clone()),
            model_dtype: long_dtype(&model.dtype).to_owned(),
            model_device_type: model.device.clone(),
            model_pipeline_tag: "text-generation",
            served_model_name: name.to_owned(),
            max_concurrent_requests,
            // A token of the reply has to fit in.
            max_input_tokens: model.max_model_len.saturating_sub(1),
            max_total_tokens: model.max_model_len,
            version: env!("CARGO_PKG_VERSION"),
            sha: None,
            docker_label: None,
        }
    }
}
