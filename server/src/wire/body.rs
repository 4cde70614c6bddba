//! A JSON body, or an error object that says what is wrong with it and where.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::error::ApiError;
use crate::state::AppState;

/// Extracts a JSON object; refuses with an OpenAI error object.
#[derive(Clone, Debug)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<AppState>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, ApiError> {
        is_json(request.headers())?;
        let limit = state.payload_limit();
        let too_large = || {
            ApiError::invalid(
                StatusCode::PAYLOAD_TOO_LARGE,
                "payload_too_large",
                format!(
                    "the body is larger than {limit} bytes (--payload-limit): send fewer or shorter inputs"
                ),
            )
        };
        // Said before a byte is read where the client said the length itself.
        if content_length(request.headers()).is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            match rejection.into_response().status() {
                StatusCode::PAYLOAD_TOO_LARGE => too_large(),
                _ => ApiError::invalid(
                    StatusCode::BAD_REQUEST,
                    "body_unreadable",
                    "the body could not be read to its end",
                ),
            }
        })?;
        parse_object(&bytes).map(Self)
    }
}

/// Parses a JSON object.
///
/// # Errors
/// 400 with the field, the line and the column, and what was expected.
pub fn parse_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // serde would take an array for a struct, field by field.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|&byte| byte == b'[') {
        return Err(bad_json("the body is a list, expected a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().iter().next().is_some().then(|| error.path().to_string());
        let inner = error.into_inner();
        match (inner.classify(), field) {
            (Category::Data, Some(field)) => {
                ApiError::invalid(StatusCode::BAD_REQUEST, "invalid_value", format!("`{field}`: {inner}"))
                    .naming(field)
            }
            (Category::Data, None) => {
                ApiError::invalid(StatusCode::BAD_REQUEST, "invalid_value", inner.to_string())
            }
            (Category::Syntax | Category::Eof | Category::Io, _) => {
                bad_json(&format!("the body is no valid JSON: {inner}"))
            }
        }
    })?;
    json.end().map_err(|error| bad_json(&format!("the body is no valid JSON: {error}")))?;
    Ok(value)
}

fn bad_json(message: &str) -> ApiError {
    ApiError::invalid(StatusCode::BAD_REQUEST, "invalid_json", message)
}

fn is_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence =
        content_type.unwrap_or("none").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(ApiError::invalid(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!(
            "the content type is {essence}, expected application/json: send `Content-Type: application/json`"
        ),
    ))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
