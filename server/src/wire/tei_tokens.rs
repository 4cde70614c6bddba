//! `POST /tokenize` and `POST /decode` as text-embeddings-inference has them.

use axum::http::StatusCode;
use polylora_engine::{DecodeRequest, EmbedInput, TextToken, TokenizeRequest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ApiError;
use super::input::Inputs;
use super::openai::ReadingRules;
use super::tei::{ChosenModel, Named, needed};
use crate::api_doc::{IdLists, ModelName, PromptName, Texts};

/// The body of `POST /tokenize`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct TokenizeBody {
    /// A text or a list of texts.
    #[schema(value_type = Texts)]
    inputs: Option<Inputs>,
    /// Whether the model's special tokens are among the tokens: `true` where left out.
    #[schema(default = true)]
    add_special_tokens: Option<bool>,
    /// Prompt of the model that goes in front of each text.
    #[schema(value_type = Option<PromptName>)]
    prompt_name: Option<String>,
    /// Base model, alias or adapter, which all have one tokenizer.
    #[schema(value_type = Option<ModelName>)]
    model: Option<String>,
    /// Adapter.
    #[schema(value_type = Option<ModelName>)]
    adapter_id: Option<String>,
    /// Adapter.
    #[schema(value_type = Option<ModelName>)]
    lora_name: Option<String>,
}

/// The body of `POST /decode`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct DecodeBody {
    /// A list of token ids, or a list of such lists.
    #[schema(value_type = IdLists)]
    ids: Option<Inputs>,
    /// Whether special tokens are left out of the texts: `true` where left out.
    #[schema(default = true)]
    skip_special_tokens: Option<bool>,
    /// Base model, alias or adapter, which all have one tokenizer.
    #[schema(value_type = Option<ModelName>)]
    model: Option<String>,
    /// Adapter.
    #[schema(value_type = Option<ModelName>)]
    adapter_id: Option<String>,
    /// Adapter.
    #[schema(value_type = Option<ModelName>)]
    lora_name: Option<String>,
}

impl TokenizeBody {
    /// Reads the request in the engine's terms, and whose tokenizer is meant.
    ///
    /// # Errors
    /// Missing or foreign `inputs`, fields that disagree about the adapter.
    pub(crate) fn read(
        self,
        path: Option<&str>,
        rules: ReadingRules<'_>,
    ) -> Result<(TokenizeRequest, ChosenModel), ApiError> {
        let (model, adapter_id) = (self.model.as_deref(), self.adapter_id.as_deref());
        let named = Named { path, model, adapter_id, lora_name: self.lora_name.as_deref() };
        let model = named.choose(rules)?;
        let text = |input| match input {
            EmbedInput::Text(text) => Ok(text),
            EmbedInput::Tokens(_) => Err(foreign("inputs", "a string or a list of strings")),
        };
        let texts = needed(self.inputs, "inputs")?.0.into_iter().map(text);
        let request = TokenizeRequest {
            texts: texts.collect::<Result<_, _>>()?,
            prompt_name: self.prompt_name,
            special_tokens: self.add_special_tokens.unwrap_or(true),
        };
        Ok((request, model))
    }
}

impl DecodeBody {
    /// Reads the request in the engine's terms, and whose tokenizer is meant.
    ///
    /// # Errors
    /// Missing or foreign `ids`, fields that disagree about the adapter.
    pub(crate) fn read(
        self,
        path: Option<&str>,
        rules: ReadingRules<'_>,
    ) -> Result<(DecodeRequest, ChosenModel), ApiError> {
        let (model, adapter_id) = (self.model.as_deref(), self.adapter_id.as_deref());
        let named = Named { path, model, adapter_id, lora_name: self.lora_name.as_deref() };
        let model = named.choose(rules)?;
        let list = |input| match input {
            EmbedInput::Tokens(ids) => Ok(ids),
            EmbedInput::Text(_) => Err(foreign("ids", "a list of token ids or a list of lists of token ids")),
        };
        let ids = needed(self.ids, "ids")?.0.into_iter().map(list).collect::<Result<_, _>>()?;
        let skip_special_tokens = self.skip_special_tokens.unwrap_or(true);
        Ok((DecodeRequest { ids, skip_special_tokens }, model))
    }
}

fn foreign(field: &'static str, expected: &str) -> ApiError {
    let message = format!("`{field}` must be {expected}");
    ApiError::invalid(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", message).naming(field)
}

/// A token of a text.
#[derive(Debug, Serialize, ToSchema)]
pub struct SimpleToken {
    /// Its id.
    id: u32,
    /// The part of the text that it stands for; a special token's own name.
    text: String,
    /// Whether it was added to the text.
    special: bool,
    /// Where that part begins in the text, in bytes; `null` for a special token.
    #[schema(required)]
    start: Option<usize>,
    /// Where it ends.
    #[schema(required)]
    stop: Option<usize>,
}

impl From<TextToken> for SimpleToken {
    fn from(token: TextToken) -> Self {
        let special = token.is_special();
        let (start, stop) = token.span.unzip();
        Self { id: token.id, text: token.text, special, start, stop }
    }
}
