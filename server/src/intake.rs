//! The way of a body into the server: bounded in bytes and time, and refused before it is read when nobody has time for it.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use polylora_engine::EmbedError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;

use crate::connections::Late;
use crate::held_body::HeldBody;
use crate::state::AppState;
use crate::wire::body::{discard, read_body};
use crate::wire::error::ApiError;

/// Places for requests that are being answered, given at once or not at all.
#[derive(Debug)]
pub struct Gate {
    places: Arc<Semaphore>,
    limit: usize,
}

impl Gate {
    /// So many places.
    pub fn new(limit: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))), limit }
    }

    /// Whether there is a place; it may be gone a moment later.
    fn has_place(&self) -> bool {
        self.places.available_permits() > 0
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`EmbedError::Overloaded`] when all are taken.
    fn enter(&self) -> Result<OwnedSemaphorePermit, EmbedError> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| self.full())
    }

    fn full(&self) -> EmbedError {
        EmbedError::Overloaded { limit: self.limit }
    }
}

/// Brings a POST in: without a free place it is refused at its head, unread; else its body is read whole, and then it
/// takes a place until its reply is handed over. Slow senders hold no place, slow readers do. Other methods bring no body and pass.
///
/// # Errors
/// 429, 413, 408 for a body that does not come in time, 400 for one that breaks off.
pub async fn bring_in(
    State(state): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if request.method() != Method::POST {
        return Ok(next.run(request).await);
    }
    let (parts, body) = request.into_parts();
    let gate = state.gate(parts.uri.path());
    let waits = parts.headers.contains_key(header::EXPECT);
    if !gate.has_place() {
        // The refusal does not wait for the body, but the body must be read, or the connection would break under its
        // sender's hands. Who waits for `100 Continue` sends nothing when it does not come.
        if !waits && !body.is_end_stream() {
            tokio::spawn(discard(body));
        }
        return Err(gate.full().into());
    }
    let reading = read_body(&parts.headers, body, state.payload_limit());
    let reading = reading.instrument(tracing::info_span!("read_body"));
    let Ok(read) = tokio::time::timeout(state.body_read_timeout(), reading).await else {
        state.http_metrics().connections().late(Late::Body);
        return Ok(too_slow(&state));
    };
    let body = read?;
    let place = gate.enter()?;
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    Ok(response.map(|reply| Body::new(HeldBody::new(reply, place))))
}

/// 408; the connection has half a body in it and ends.
fn too_slow(state: &AppState) -> Response {
    let message = format!(
        "the body did not come within {} s (--body-read-timeout): send it faster",
        state.body_read_timeout().as_secs_f64()
    );
    let error = ApiError::invalid(StatusCode::REQUEST_TIMEOUT, "body_timeout", message);
    let mut response = error.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_when_it_is_dropped() {
        let gate = Gate::new(1);
        let place = gate.enter().expect("a place");
        assert!(!gate.has_place());
        assert_eq!(gate.enter().expect_err("full"), EmbedError::Overloaded { limit: 1 });
        drop(place);
        assert!(gate.has_place() && gate.enter().is_ok());
    }
}
