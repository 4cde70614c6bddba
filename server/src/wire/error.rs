//! OpenAI's error object, and the one place where an engine's error becomes a status.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use polylora_engine::EmbedError;
use serde::Serialize;
use utoipa::ToSchema;

/// Bytes that a message may have; what a client sent may be quoted in it and is as long as a client likes.
pub(super) const MAX_MESSAGE_BYTES: usize = 1000;

const INVALID_REQUEST: &str = "invalid_request_error";
const RATE_LIMIT: &str = "rate_limit_error";
const SERVER: &str = "server_error";

/// An error as OpenAI's clients read it: `{"error": {"message", "type", "param", "code"}}` and a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    param: Option<String>,
    message: String,
}

/// The code of an error, left in the response for the log line.
#[derive(Clone, Copy, Debug)]
pub struct ErrorCode(pub &'static str);

impl ApiError {
    /// An error of the client's making.
    pub fn invalid(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, INVALID_REQUEST, code, message)
    }

    /// An error of the server's making.
    pub fn server(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, SERVER, code, message)
    }

    /// The computation failed or its result cannot be sent.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::server(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// A bound is reached; the client may try again.
    pub fn rate_limit(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, RATE_LIMIT, code, message)
    }

    /// No base model, alias or adapter has the name.
    pub fn model_not_found(name: &str) -> Self {
        let name = shortened(name.into(), 100);
        Self::invalid(
            StatusCode::NOT_FOUND,
            "model_not_found",
            format!("no model or adapter named `{name}` is served; GET /v1/models lists those that are"),
        )
        .naming("model")
    }

    /// A field that must be there is not.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::invalid(StatusCode::BAD_REQUEST, "missing_required_parameter", message)
    }

    /// A path that is no UTF-8; `param` is what it names.
    pub fn invalid_path(reason: String, param: &'static str) -> Self {
        Self::invalid(StatusCode::BAD_REQUEST, "invalid_path", reason).naming(param)
    }

    /// The same error, about this field of the request.
    #[must_use]
    pub fn naming(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// A short name of what went wrong.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What went wrong, in words for the client's author.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The body of the reply.
    pub fn to_json(&self) -> String {
        // Texts alone are always written.
        serde_json::to_string(&self.object()).unwrap_or_default()
    }

    fn object(&self) -> ErrorObject<'_> {
        ErrorObject {
            error: ErrorFields {
                message: &self.message,
                kind: self.kind,
                param: self.param.as_deref(),
                code: self.code,
            },
        }
    }

    fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code, param: None, message: shortened(message.into(), MAX_MESSAGE_BYTES) }
    }
}

impl From<EmbedError> for ApiError {
    fn from(error: EmbedError) -> Self {
        let (status, kind, code, param) = match &error {
            EmbedError::NoInputs => (400, INVALID_REQUEST, "no_inputs", Some("input".to_owned())),
            EmbedError::EmptyInput { index } => (400, INVALID_REQUEST, "empty_input", Some(input(index))),
            EmbedError::TooManyInputs { .. } => {
                (400, INVALID_REQUEST, "too_many_inputs", Some("input".to_owned()))
            }
            EmbedError::TooManyCharacters { index, .. } => {
                (400, INVALID_REQUEST, "text_too_long", Some(input(index)))
            }
            EmbedError::TooLong { index, .. } => {
                (400, INVALID_REQUEST, "context_length_exceeded", Some(input(index)))
            }
            EmbedError::TooManyTokens { .. } => {
                (400, INVALID_REQUEST, "too_many_tokens", Some("input".to_owned()))
            }
            EmbedError::TokenOutOfVocabulary { index, .. } => {
                (400, INVALID_REQUEST, "token_out_of_vocabulary", Some(input(index)))
            }
            EmbedError::Tokenize { index, .. } => {
                (400, INVALID_REQUEST, "tokenization_failed", Some(input(index)))
            }
            EmbedError::DimensionsOutOfRange { .. } => {
                (400, INVALID_REQUEST, "dimensions_out_of_range", Some("dimensions".to_owned()))
            }
            EmbedError::UnknownPrompt { .. } => {
                (400, INVALID_REQUEST, "unknown_prompt", Some("prompt_name".to_owned()))
            }
            EmbedError::UnknownAdapter { name } => return Self::model_not_found(name),
            EmbedError::AdapterInvalid { .. } => {
                (400, INVALID_REQUEST, "adapter_invalid", Some("model".to_owned()))
            }
            EmbedError::AdapterTooLarge { .. } => {
                (400, INVALID_REQUEST, "adapter_too_large", Some("model".to_owned()))
            }
            EmbedError::Overloaded { .. } | EmbedError::QueueFull { .. } => {
                (429, RATE_LIMIT, "rate_limit_exceeded", None)
            }
            EmbedError::ShuttingDown => (503, SERVER, "shutting_down", None),
            EmbedError::Unavailable { .. } => (503, SERVER, "unavailable", None),
            EmbedError::Internal { .. } => (500, SERVER, "internal_error", None),
        };
        let status = StatusCode::from_u16(status).expect("the statuses above are well-formed");
        Self { param, ..Self::new(status, kind, code, error.to_string()) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = ErrorCode(self.code);
        let mut response = (self.status, Json(self.object())).into_response();
        let headers = response.headers_mut();
        match self.status {
            // An embedding takes milliseconds; a second is the shortest that the header can say.
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response.extensions_mut().insert(code);
        // For the routes that speak another dialect.
        response.extensions_mut().insert(self);
        response
    }
}

/// The body of an error.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorObject<'a> {
    error: ErrorFields<'a>,
}

/// What is known of an error.
#[derive(Serialize, ToSchema)]
struct ErrorFields<'a> {
    /// What went wrong and what to do about it.
    message: &'a str,
    /// Whose the error is.
    #[serde(rename = "type")]
    kind: &'a str,
    /// The field of the request that it is about.
    #[schema(required)]
    param: Option<&'a str>,
    /// A short name of what went wrong.
    code: &'a str,
}

fn input(index: &usize) -> String {
    format!("input[{index}]")
}

pub(super) fn shortened(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let error = ApiError::internal("é".repeat(2000));
        assert!(error.message.len() <= MAX_MESSAGE_BYTES + '…'.len_utf8() && error.message.ends_with("é…"));
        let error = ApiError::model_not_found(&"x".repeat(1 << 20));
        assert!(error.message.len() < 300 && error.message.ends_with("those that are"));
    }

    #[test]
    fn only_what_failed_here_is_a_server_error() {
        let internal = ApiError::from(EmbedError::Internal { reason: "x".into() });
        let stopping = ApiError::from(EmbedError::ShuttingDown);
        let too_many = ApiError::from(EmbedError::Overloaded { limit: 1 });
        assert_eq!([internal.status, stopping.status, too_many.status].map(|s| s.as_u16()), [500, 503, 429]);
        assert_eq!([internal.kind, stopping.kind, too_many.kind], [SERVER, SERVER, RATE_LIMIT]);
    }
}
