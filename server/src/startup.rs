//! What is answered between binding the port and the model's readiness: that it is not ready yet.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;

use crate::request_log::{REQUEST_ID, request_id};
use crate::routes::generate::speaks_tgi;
use crate::routes::tei::speaks_tei;
use crate::wire::body::discard;
use crate::wire::error::ApiError;
use crate::wire::tei_error::TeiError;
use crate::wire::tgi_error::TgiError;

/// The HTTP surface from the first connection on: a refusal until the routes are there, then the routes.
#[derive(Clone, Debug, Default)]
pub struct Surface(Arc<OnceLock<Router>>);

impl Surface {
    /// A surface without routes.
    pub fn starting() -> Self {
        Self::default()
    }

    /// From now on these routes answer, also on connections that are open already. Later calls change nothing.
    pub fn open(&self, routes: Router) {
        // Who was first is serving; both were made by the one caller there is.
        let _ = self.0.set(routes);
    }

    /// What the listener serves.
    pub fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }
}

/// 503 with code `starting`, on every path.
pub fn starting() -> ApiError {
    let message = "the model is starting: no probe has gone through the device yet; try again shortly";
    ApiError::server(StatusCode::SERVICE_UNAVAILABLE, "starting", message)
}

async fn answer(State(surface): State<Surface>, request: Request) -> Response {
    if let Some(routes) = surface.0.get() {
        let Ok(response) = routes.clone().oneshot(request).await;
        return response;
    }
    let id = request_id(request.headers());
    let path = request.uri().path();
    let (in_teis_words, in_tgis_words) = (speaks_tei(path), speaks_tgi(path));
    // A client that sends all before it reads would else find its connection broken instead of the reason.
    if !request.headers().contains_key(header::EXPECT) {
        discard(request.into_body()).await;
    }
    let told = starting().into_response();
    let mut response = match (in_teis_words, in_tgis_words) {
        (true, _) => TeiError::from(starting()).into_response(),
        (false, true) => TgiError::from(starting()).instead_of(told),
        (false, false) => told,
    };
    response.headers_mut().insert(REQUEST_ID, id);
    response
}
