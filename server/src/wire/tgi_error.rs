//! Errors as clients of text-generation-inference read them: `{"error", "error_type"}` and a status.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use polylora_engine::{Blame, GenerateError};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorCode, MAX_MESSAGE_BYTES, shortened};

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GenerationErrorType {
    /// The request must change.
    Validation,
    /// The computation failed.
    Generation,
    /// Too many requests are in flight.
    Overloaded,
    /// The server takes no requests now.
    Unhealthy,
}

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
pub struct GenerationErrorBody {
    /// What went wrong and what to do about it.
    error: String,
    /// What kind of error it is.
    error_type: GenerationErrorType,
}

/// An error of these routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TgiError {
    status: StatusCode,
    kind: GenerationErrorType,
    message: String,
    code: &'static str,
}

/// What was found wrong in OpenAI's words. What the client sent wrongly has the status that text-generation-inference gives it,
/// 422.
impl From<ApiError> for TgiError {
    fn from(error: ApiError) -> Self {
        let kind = match error.status() {
            StatusCode::TOO_MANY_REQUESTS => GenerationErrorType::Overloaded,
            StatusCode::SERVICE_UNAVAILABLE => GenerationErrorType::Unhealthy,
            status if status.is_server_error() => GenerationErrorType::Generation,
            _ => GenerationErrorType::Validation,
        };
        let status = match (error.status(), error.code()) {
            (StatusCode::BAD_REQUEST, code) if code != "invalid_json" && code != "body_unreadable" => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            (status, _) => status,
        };
        Self { status, kind, message: error.message().to_owned(), code: error.code() }
    }
}

impl TgiError {
    /// An error that came when the reply had begun; its status was sent before.
    pub fn generating(error: &GenerateError) -> Self {
        let kind = match error {
            GenerateError::Overloaded { .. } => GenerationErrorType::Overloaded,
            GenerateError::ShuttingDown | GenerateError::Unavailable { .. } => GenerationErrorType::Unhealthy,
            _ if error.blame() == Blame::Client => GenerationErrorType::Validation,
            _ => GenerationErrorType::Generation,
        };
        let message = shortened(error.to_string(), MAX_MESSAGE_BYTES);
        Self { status: StatusCode::FAILED_DEPENDENCY, kind, message, code: error.code() }
    }

    /// The body.
    pub fn body(self) -> GenerationErrorBody {
        GenerationErrorBody { error: self.message, error_type: self.kind }
    }

    /// The same error in the place of a reply that told it in OpenAI's words; that reply's other headers stay.
    pub fn instead_of(self, told: Response) -> Response {
        let code = ErrorCode(self.code);
        let mut response = (self.status, Json(self.body())).into_response();
        for (name, value) in told.headers() {
            if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
                response.headers_mut().insert(name, value.clone());
            }
        }
        response.extensions_mut().insert(code);
        response
    }
}
