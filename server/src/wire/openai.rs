//! `POST /v1/embeddings` as OpenAI's clients send and read it, with vLLM's ways of naming an adapter.
//!
//! Fields that are not listed here are ignored, as vLLM does, so that clients may send what other servers know (`user`,
//! `priority`, `add_special_tokens`, ...). What would change the result and cannot be done is refused, never ignored.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use polylora_engine::{EmbedReply, EmbedRequest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::adapter_choice::agreed_adapter;
use super::error::ApiError;
use super::fields::{Dimensions, EncodingFormat, LoraRequest, TokenLimit};
use super::input::Inputs;
use crate::api_doc::{ModelName, PromptName};
use crate::state::ModelNames;

/// The body of a request. A field that is `null` counts as left out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct EmbeddingsRequest {
    /// What to embed.
    #[schema(value_type = Inputs)]
    input: Option<Inputs>,
    /// Base model, alias or adapter; left out, the base model.
    #[schema(value_type = Option<ModelName>)]
    model: Option<String>,
    /// Adapter, beside a `model` that is the base or the same adapter.
    #[schema(value_type = Option<ModelName>)]
    lora_name: Option<String>,
    /// Adapter, in vLLM's object.
    lora_request: Option<LoraRequest>,
    /// Numbers or base64.
    encoding_format: Option<EncodingFormat>,
    /// Width to cut embeddings to.
    dimensions: Option<Dimensions>,
    /// Who the client's user is: in an A/B test of an adapter he always gets the same version.
    #[schema(value_type = Value)]
    user: Option<Value>,
    /// Prompt of the model that goes in front of each text.
    #[schema(value_type = Option<PromptName>)]
    prompt_name: Option<String>,
    /// vLLM's way to ask for truncation: -1, or a number of tokens from the model's limit upwards.
    truncate_prompt_tokens: Option<TokenLimit>,
}

/// What the server knows when it reads a request.
#[derive(Clone, Copy, Debug)]
pub struct ReadingRules<'a> {
    /// The names of the base model.
    pub names: &'a ModelNames,
    /// Whether long inputs are cut when the request does not say.
    pub auto_truncate: bool,
    /// The model's limit of tokens.
    pub max_tokens: usize,
}

/// A request in the engine's terms, and what the reply needs to know of it.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// For the engine.
    pub engine: EmbedRequest,
    /// How to write the embeddings.
    pub encoding: EncodingFormat,
    /// The name that the reply repeats.
    pub model: String,
    /// The field that named the adapter, for errors.
    pub named_by: &'static str,
    /// Who the client's user is.
    pub user: Option<String>,
    /// vLLM's object for the adapter.
    pub lora_request: Option<LoraRequest>,
}

impl EmbeddingsRequest {
    /// Reads the request in the engine's terms.
    ///
    /// # Errors
    /// A missing `input`, fields that disagree about the adapter, a truncation that cannot be done.
    pub fn read(self, rules: ReadingRules<'_>) -> Result<ReadRequest, ApiError> {
        let inputs = self.input.ok_or_else(|| {
            let message =
                "the field `input` is missing: send a string, a list of strings or lists of token ids";
            ApiError::invalid(StatusCode::BAD_REQUEST, "missing_required_parameter", message).naming("input")
        })?;
        let truncate = read_truncation(self.truncate_prompt_tokens, rules)?;
        let lora_request = self.lora_request.as_ref().map(|request| request.lora_name.as_str());
        let (adapter, named_by) = agreed_adapter(&[
            ("model", self.model.as_deref().and_then(|name| rules.names.resolve(name).adapter())),
            ("lora_name", self.lora_name.as_deref()),
            ("lora_request.lora_name", lora_request),
        ])?;
        let adapter = adapter.map(str::to_owned);
        let model =
            self.model.or_else(|| adapter.clone()).unwrap_or_else(|| rules.names.primary().to_owned());
        let engine = EmbedRequest {
            inputs: inputs.0,
            adapter,
            prompt_name: self.prompt_name,
            dimensions: self.dimensions.map(|Dimensions(width)| width),
            truncate,
            ..EmbedRequest::default()
        };
        let encoding = self.encoding_format.unwrap_or_default();
        // As OpenAI has it a text; anything else says nothing of a client.
        let user = self.user.and_then(|user| user.as_str().map(str::to_owned));
        Ok(ReadRequest { engine, encoding, model, named_by, user, lora_request: self.lora_request })
    }
}

fn read_truncation(asked: Option<TokenLimit>, rules: ReadingRules<'_>) -> Result<bool, ApiError> {
    match asked.map(|TokenLimit(tokens)| tokens) {
        None => Ok(rules.auto_truncate),
        Some(-1) => Ok(true),
        Some(tokens) if usize::try_from(tokens).is_ok_and(|tokens| tokens >= rules.max_tokens) => Ok(true),
        Some(tokens) => Err(ApiError::invalid(
            StatusCode::BAD_REQUEST,
            "unsupported_value",
            format!(
                "truncate_prompt_tokens is {tokens}; inputs are cut at the model's limit only: send -1, or {} or more",
                rules.max_tokens
            ),
        )
        .naming("truncate_prompt_tokens")),
    }
}

/// The body of a reply.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingsResponse<'a> {
    object: &'static str,
    data: Vec<EmbeddingObject<'a>>,
    model: &'a str,
    usage: Usage,
    /// Why the base model answered in place of the adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback_reason: Option<&'a str>,
}

#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingObject<'a> {
    object: &'static str,
    index: usize,
    embedding: Embedding<'a>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Embedding<'a> {
    Float(&'a [f32]),
    Base64(String),
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl<'a> EmbeddingsResponse<'a> {
    /// The reply to a request for `model`.
    ///
    /// # Errors
    /// 500 for an embedding with a value that is no number: JSON cannot say it, and no client wants it.
    pub fn new(reply: &'a EmbedReply, model: &'a str, encoding: EncodingFormat) -> Result<Self, ApiError> {
        if let Some(index) =
            reply.embeddings.iter().position(|row| row.iter().any(|value| !value.is_finite()))
        {
            return Err(ApiError::internal(format!(
                "the embedding of input {index} has a value that is not finite"
            )));
        }
        let data = reply.embeddings.iter().enumerate().map(|(index, values)| EmbeddingObject {
            object: "embedding",
            index,
            embedding: match encoding {
                EncodingFormat::Float => Embedding::Float(values),
                EncodingFormat::Base64 => Embedding::Base64(little_endian_base64(values)),
            },
        });
        let usage = Usage { prompt_tokens: reply.tokens, total_tokens: reply.tokens };
        let fallback_reason = reply.fallback_reason.as_deref();
        Ok(Self { object: "list", data: data.collect(), model, usage, fallback_reason })
    }

    /// About how long the body is, rather too long than too short.
    fn bytes(&self) -> usize {
        let embedding = |object: &EmbeddingObject<'_>| match &object.embedding {
            Embedding::Float(values) => values.len() * BYTES_A_NUMBER,
            Embedding::Base64(text) => text.len(),
        };
        let objects = self.data.iter().map(|object| embedding(object) + BYTES_AROUND_EMBEDDING);
        objects.sum::<usize>() + self.model.len() + BYTES_AROUND_DATA
    }
}

/// Of a number between -1 and 1 with its comma, as short as f32 allows.
const BYTES_A_NUMBER: usize = 14;
const BYTES_AROUND_EMBEDDING: usize = 80;
const BYTES_AROUND_DATA: usize = 120;

impl IntoResponse for EmbeddingsResponse<'_> {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(self.bytes());
        match serde_json::to_writer(&mut body, &self) {
            Ok(()) => {
                let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                ([json], body).into_response()
            }
            Err(error) => ApiError::internal(error.to_string()).into_response(),
        }
    }
}

fn little_endian_base64(values: &[f32]) -> String {
    if cfg!(target_endian = "little") {
        STANDARD.encode(bytemuck::cast_slice::<f32, u8>(values))
    } else {
        STANDARD.encode(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    }
}
