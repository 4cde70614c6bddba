//! API keys: with any set, what is not public is answered only to who bears one.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::api_doc::page as api_page;
use crate::page;
use crate::routes::{METRICS, PROBES};
use crate::state::AppState;
use crate::wire::error::ApiError;

/// Lets a request through that bears a key, where keys are set.
///
/// # Errors
/// 401 with code `invalid_api_key`.
pub async fn require_key(
    State(state): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let public = is_public(&request, state.metrics_are_public());
    if state.api_keys().are_needed() && !public && !state.admin().opens(request.headers()) {
        let presented = bearer_token(request.headers());
        if !presented.is_some_and(|token| state.api_keys().open_to(token)) {
            let message = match presented {
                Some(_) => "the API key is not one of the server's",
                None => "an API key is needed: send `Authorization: Bearer KEY`",
            };
            return Err(ApiError::invalid(StatusCode::UNAUTHORIZED, "invalid_api_key", message));
        }
    }
    Ok(next.run(request).await)
}

/// What says nothing of other clients: probes, the document and its page, the status page without its figures; metrics where
/// that is set. At the page's path work is asked for as well, by POST.
fn is_public(request: &Request, metrics_are_public: bool) -> bool {
    let (path, reads) = (request.uri().path(), request.method() != Method::POST);
    PROBES.contains(&path)
        || [api_page::DOCUMENT, api_page::PAGE].contains(&path)
        || path.starts_with("/docs/")
        || (reads && page::is_public(path, request.headers()))
        || (path == METRICS && metrics_are_public)
}

/// The key that a request bears.
pub(crate) fn bearer_token(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii())
}
