//! The API key: without it nothing is answered but probes and the documentation.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::api_doc::page;
use crate::routes::{HEALTH, READY};
use crate::state::AppState;
use crate::wire::error::ApiError;

/// Lets a request through that bears the key, where one is set.
///
/// # Errors
/// 401 with code `invalid_api_key`.
pub async fn require_key(
    State(state): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Some(key) = state.api_key().filter(|_| !is_public(request.uri().path())) {
        let presented = bearer_token(request.headers());
        if !presented.is_some_and(|token| key.matches(token)) {
            let message = match presented {
                Some(_) => "the API key is not the server's",
                None => "an API key is needed: send `Authorization: Bearer KEY`",
            };
            return Err(ApiError::invalid(StatusCode::UNAUTHORIZED, "invalid_api_key", message));
        }
    }
    Ok(next.run(request).await)
}

/// What says nothing of the models or of other clients: probes, the document and its page.
fn is_public(path: &str) -> bool {
    [HEALTH, READY, page::DOCUMENT, page::PAGE].contains(&path) || path.starts_with("/docs/")
}

fn bearer_token(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii())
}
