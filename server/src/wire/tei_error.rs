//! text-embeddings-inference's error object, and its statuses.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use polylora_engine::EmbedError;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorCode, MAX_MESSAGE_BYTES, shortened};

/// The words that clients look for.
const OVERLOADED: &str = "Model is overloaded";

/// What kind of error it is, as clients of text-embeddings-inference read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub enum ErrorType {
    /// The server takes no requests now.
    Unhealthy,
    /// The computation failed.
    Backend,
    /// Too many requests are in flight.
    Overloaded,
    /// The request must change.
    Validation,
    /// A text could not be tokenised.
    Tokenizer,
    /// There is nothing to compute.
    Empty,
}

/// An error as clients of text-embeddings-inference read it: `{"error", "error_type"}` and a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeiError {
    status: StatusCode,
    kind: ErrorType,
    message: String,
    code: &'static str,
}

impl From<EmbedError> for TeiError {
    fn from(error: EmbedError) -> Self {
        let (status, kind) = match &error {
            EmbedError::NoInputs | EmbedError::EmptyInput { .. } => {
                (StatusCode::BAD_REQUEST, ErrorType::Empty)
            }
            EmbedError::TooManyInputs { .. } | EmbedError::TooManyTokens { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, ErrorType::Validation)
            }
            EmbedError::Tokenize { .. } => (StatusCode::UNPROCESSABLE_ENTITY, ErrorType::Tokenizer),
            EmbedError::TooLong { .. }
            | EmbedError::TooManyCharacters { .. }
            | EmbedError::TokenOutOfVocabulary { .. }
            | EmbedError::DimensionsOutOfRange { .. }
            | EmbedError::UnknownPrompt { .. }
            | EmbedError::AdapterInvalid { .. }
            | EmbedError::AdapterTooLarge { .. } => (StatusCode::UNPROCESSABLE_ENTITY, ErrorType::Validation),
            EmbedError::UnknownAdapter { name } => return ApiError::model_not_found(name).into(),
            EmbedError::Overloaded { .. } | EmbedError::QueueFull { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, ErrorType::Overloaded)
            }
            EmbedError::ShuttingDown | EmbedError::Unavailable { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, ErrorType::Unhealthy)
            }
            EmbedError::Internal { .. } => (StatusCode::FAILED_DEPENDENCY, ErrorType::Backend),
        };
        let message = match kind {
            ErrorType::Overloaded => format!("{OVERLOADED}: {error}"),
            _ => error.to_string(),
        };
        Self { status, kind, code: error.code(), message: shortened(message, MAX_MESSAGE_BYTES) }
    }
}

/// What was found before or beside the engine. A body of the wrong form has the status that text-embeddings-inference
/// gives it, 422.
impl From<ApiError> for TeiError {
    fn from(error: ApiError) -> Self {
        let kind = match error.status() {
            StatusCode::TOO_MANY_REQUESTS => ErrorType::Overloaded,
            StatusCode::SERVICE_UNAVAILABLE => ErrorType::Unhealthy,
            status if status.is_server_error() => ErrorType::Backend,
            _ if error.code() == "no_inputs" => ErrorType::Empty,
            _ => ErrorType::Validation,
        };
        let status = match error.code() {
            "invalid_value" => StatusCode::UNPROCESSABLE_ENTITY,
            "conflicting_adapters" => StatusCode::CONFLICT,
            _ => error.status(),
        };
        let message = match kind {
            ErrorType::Overloaded => format!("{OVERLOADED}: {}", error.message()),
            _ => error.message().to_owned(),
        };
        Self { status, kind, code: error.code(), message }
    }
}

impl TeiError {
    /// The endpoint needs another kind of model than the one that is served.
    pub fn wrong_model_kind(needed: &str) -> Self {
        Self {
            status: StatusCode::FAILED_DEPENDENCY,
            kind: ErrorType::Backend,
            message: format!("the model is not {needed}: it makes embeddings, POST /embed or /v1/embeddings"),
            code: "wrong_model_kind",
        }
    }

    /// The same error in the place of a reply that told it in OpenAI's words; that reply's other headers stay.
    pub fn instead_of(self, told: Response) -> Response {
        let mut response = self.into_response();
        for (name, value) in told.headers() {
            if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
                response.headers_mut().insert(name, value.clone());
            }
        }
        response
    }
}

impl IntoResponse for TeiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: self.message, error_type: self.kind };
        let mut response = (self.status, Json(body)).into_response();
        if matches!(self.kind, ErrorType::Overloaded | ErrorType::Unhealthy) {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(ErrorCode(self.code));
        response
    }
}

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong and what to do about it.
    error: String,
    /// What kind of error it is.
    error_type: ErrorType,
}
