//! The bodies of vLLM's `/tokenize` and `/detokenize`, for the model that generates.

use polylora_engine::{Prompt, TextToken};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::parse_object;
use super::chat::ConversationFields;
use super::error::ApiError;
use super::generation_fields::invalid;
use super::input::TokenIds;
use crate::api_doc::ModelName;

/// The fields of `/tokenize` beside a conversation's.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct PromptTokensFields {
    /// Base model, alias or adapter, which all have one tokenizer.
    #[schema(value_type = Option<ModelName>)]
    pub(crate) model: Option<String>,
    /// A text; in its place may stand a conversation, in `messages`.
    prompt: Option<String>,
    /// Whether the tokenizer adds its special tokens: to texts where left out, to conversations not.
    add_special_tokens: Option<bool>,
    /// Whether the reply has the tokens' texts as well.
    return_token_strs: Option<bool>,
}

/// The body of `/detokenize`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct DetokenizeBody {
    /// Base model, alias or adapter, which all have one tokenizer.
    #[schema(value_type = Option<ModelName>)]
    pub(crate) model: Option<String>,
    /// The token ids.
    #[schema(value_type = Vec<u32>)]
    tokens: Option<TokenIds>,
}

/// The tokens of a prompt.
#[derive(Debug, Serialize, ToSchema)]
pub struct PromptTokens {
    /// How many there are.
    count: usize,
    /// How many prompt and reply may have together.
    max_model_len: usize,
    /// Their ids.
    tokens: Vec<u32>,
    /// Their texts, with `return_token_strs`.
    #[schema(required)]
    token_strs: Option<Vec<String>>,
}

/// The text of token ids.
#[derive(Debug, Serialize, ToSchema)]
pub struct DetokenizedText {
    /// The text, special tokens included.
    pub(crate) prompt: String,
}

/// What is asked of `/tokenize`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadPromptTokens {
    /// The prompt.
    pub prompt: Prompt,
    /// Whether special tokens are added.
    pub add_special_tokens: bool,
    /// Whether texts are told.
    pub texts: bool,
}

/// The fields that tell the dialects of `/tokenize` apart.
#[derive(Deserialize)]
struct Telltale {
    inputs: Option<IgnoredAny>,
    prompt: Option<IgnoredAny>,
    messages: Option<IgnoredAny>,
}

/// Whether a body is vLLM's: text-embeddings-inference has `inputs` in the place of `prompt` and `messages`.
pub fn is_vllms(body: &[u8]) -> bool {
    parse_object::<Telltale>(body)
        .is_ok_and(|fields| fields.inputs.is_none() && (fields.prompt.is_some() || fields.messages.is_some()))
}

impl PromptTokensFields {
    /// Reads vLLM's body of `/tokenize`; the first is the model that it names.
    ///
    /// # Errors
    /// 400 for fields of the wrong form, and for a text beside a conversation.
    pub fn read(body: &[u8]) -> Result<(Option<String>, ReadPromptTokens), ApiError> {
        let own: Self = parse_object(body)?;
        let conversation: ConversationFields = parse_object(body)?;
        let (prompt, adds) = match own.prompt {
            Some(_) if conversation.is_given() => {
                let message = "`prompt` and `messages` are both there: send one of them".to_owned();
                return Err(invalid("prompt", message));
            }
            Some(text) => (Prompt::Text(text), true),
            None => (Prompt::Chat(conversation.read()?), false),
        };
        let add_special_tokens = own.add_special_tokens.unwrap_or(adds);
        let texts = own.return_token_strs.unwrap_or(false);
        Ok((own.model, ReadPromptTokens { prompt, add_special_tokens, texts }))
    }
}

impl DetokenizeBody {
    /// The ids; the first is the model that the body names.
    ///
    /// # Errors
    /// 400 when they are missing.
    pub fn read(self) -> Result<(Option<String>, Vec<u32>), ApiError> {
        let Some(TokenIds(ids)) = self.tokens else {
            let message = "the field `tokens` is missing: send a list of token ids";
            return Err(ApiError::missing(message).naming("tokens"));
        };
        Ok((self.model, ids))
    }
}

impl PromptTokens {
    /// The reply.
    pub fn new(tokens: Vec<TextToken>, max_model_len: usize, texts: bool) -> Self {
        Self {
            count: tokens.len(),
            max_model_len,
            tokens: tokens.iter().map(|token| token.id).collect(),
            token_strs: texts.then(|| tokens.into_iter().map(|token| token.text).collect()),
        }
    }
}
