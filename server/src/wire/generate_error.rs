//! A generation engine's error as a status and words, about the field of the request that it concerns.

use axum::http::StatusCode;
use polylora_engine::GenerateError;

use super::error::ApiError;

/// What the fields of a request are called that an error may be about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldNames {
    /// The prompts, of which several have a number.
    pub prompt: &'static str,
    /// Whether they have one.
    pub is_list: bool,
    /// The field that named the adapter.
    pub model: &'static str,
    /// The one that says how many log-probabilities there are.
    pub logprobs: &'static str,
}

impl FieldNames {
    fn prompt(&self, index: usize) -> String {
        if self.is_list { format!("{}[{index}]", self.prompt) } else { self.prompt.to_owned() }
    }
}

impl ApiError {
    /// The error of prompt `index`.
    pub fn generating(error: &GenerateError, index: usize, names: &FieldNames) -> Self {
        let prompt = || names.prompt(index);
        let model = || names.model.to_owned();
        let (code, param) = match error {
            GenerateError::EmptyPrompt => ("empty_prompt", prompt()),
            GenerateError::TooManyCharacters { .. } => ("text_too_long", prompt()),
            GenerateError::TooLong { .. } => ("context_length_exceeded", prompt()),
            GenerateError::TokenOutOfVocabulary { .. } => ("token_out_of_vocabulary", prompt()),
            GenerateError::Tokenize { .. } => ("tokenization_failed", prompt()),
            GenerateError::NoChatTemplate => ("no_chat_template", prompt()),
            GenerateError::Template { .. } => ("chat_template", prompt()),
            GenerateError::Sampling { field: "logprobs", .. } => ("invalid_value", names.logprobs.to_owned()),
            GenerateError::Sampling { field, .. } => ("invalid_value", (*field).to_owned()),
            GenerateError::TooManyCopies { .. } => ("too_many_copies", "n".to_owned()),
            GenerateError::UnknownAdapter { name } => {
                return Self::model_not_found(name).naming(names.model);
            }
            GenerateError::AdapterInvalid { .. } => ("adapter_invalid", model()),
            GenerateError::AdapterTooLarge { .. } => ("adapter_too_large", model()),
            GenerateError::Overloaded { .. } => {
                return Self::rate_limit("rate_limit_exceeded", error.to_string());
            }
            GenerateError::ShuttingDown => return Self::unavailable("shutting_down", error),
            GenerateError::Unavailable { .. } => return Self::unavailable("unavailable", error),
            GenerateError::Internal { .. } => return Self::internal(error.to_string()),
        };
        Self::invalid(StatusCode::BAD_REQUEST, code, error.to_string()).naming(param)
    }

    fn unavailable(code: &'static str, error: &GenerateError) -> Self {
        Self::server(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string())
    }
}
