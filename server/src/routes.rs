//! Which path answers what.

use std::any::Any;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use polylora_engine::{EmbedError, Health};
use serde_json::json;
use tower_http::catch_panic::CatchPanicLayer;

use crate::auth::require_key;
use crate::cors;
use crate::intake::bring_in;
use crate::request_log::{Served, record};
use crate::settings::Origin;
use crate::shutdown::{CutOff, until_cut_off};
use crate::startup::starting;
use crate::state::AppState;
use crate::wire::body::JsonBody;
use crate::wire::error::ApiError;
use crate::wire::openai::{EmbeddingsRequest, EmbeddingsResponse, ReadRequest};

/// Path of the health check.
pub const HEALTH: &str = "/health";
/// Path of the metrics.
pub const METRICS: &str = "/metrics";

const EMBEDDINGS: &str = "/v1/embeddings";
const MODELS: &str = "/v1/models";
const MODEL: &str = "/v1/models/{*id}";

/// The whole HTTP surface; what `cut_off` finds unanswered gets 503, and pages of `origins` may call it.
pub fn router(state: Arc<AppState>, cut_off: CutOff, origins: &[Origin]) -> Router {
    let routes = Router::new()
        .route("/", get(about))
        .route(HEALTH, get(health))
        .route(METRICS, get(metrics))
        .route(EMBEDDINGS, post(embeddings))
        .route(MODELS, get(models))
        .route(MODEL, get(model))
        // Under all routes above, and only under those.
        .route_layer(from_fn_with_state(state.clone(), bring_in))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(state.clone(), require_key))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(cut_off, until_cut_off));
    let routes = match cors::layer(origins) {
        Some(layer) => routes.layer(layer),
        None => routes,
    };
    routes.layer(from_fn_with_state(state.clone(), record)).with_state(state)
}

async fn embeddings(
    State(state): State<Arc<AppState>>,
    JsonBody(body): JsonBody<EmbeddingsRequest>,
) -> Result<Response, ApiError> {
    let ReadRequest { engine, encoding, model, named_by } = body.read(state.reading_rules())?;
    let inputs = engine.inputs.len();
    let reply = state.service().embed(engine).await.map_err(|error| {
        let about_adapter = matches!(
            error,
            EmbedError::UnknownAdapter { .. }
                | EmbedError::AdapterInvalid { .. }
                | EmbedError::AdapterTooLarge { .. }
        );
        let error = ApiError::from(error);
        if about_adapter { error.naming(named_by) } else { error }
    })?;
    let served = Served::new(model.clone(), inputs, &reply);
    if reply.embeddings.len() != inputs {
        let found = reply.embeddings.len();
        return Err(ApiError::internal(format!("{found} embeddings came back for {inputs} inputs")));
    }
    let mut response = EmbeddingsResponse::new(&reply, &model, encoding)?.into_response();
    response.extensions_mut().insert(served);
    Ok(response)
}

async fn models(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    Json(state.models().list())
}

async fn model(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Path(name) = name.map_err(|rejection| {
        ApiError::invalid(StatusCode::BAD_REQUEST, "invalid_path", rejection.body_text()).naming("model")
    })?;
    state.models().find(&name).map(Json).ok_or_else(|| ApiError::model_not_found(&name))
}

async fn health(State(state): State<Arc<AppState>>) -> Result<impl IntoResponse, ApiError> {
    let unavailable = |code, message| Err(ApiError::server(StatusCode::SERVICE_UNAVAILABLE, code, message));
    match state.service().health() {
        Health::Ready => Ok(Json(json!({"status": "ok"}))),
        Health::Starting => Err(starting()),
        Health::Unavailable => unavailable("unavailable", "the worker is down or the server is stopping"),
    }
}

async fn metrics(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    let mut text = state.service().render_metrics();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&state.http_metrics().render());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn about() -> impl IntoResponse {
    Json(json!({
        "name": "polylora",
        "version": env!("CARGO_PKG_VERSION"),
        "endpoints": [EMBEDDINGS, MODELS, "/v1/models/{id}", HEALTH, METRICS],
    }))
}

async fn unknown_path(method: Method, uri: Uri) -> Response {
    // `OPTIONS *` asks what the server as a whole can do.
    if method == Method::OPTIONS && uri.path() == "*" {
        return StatusCode::NO_CONTENT.into_response();
    }
    let path: String = uri.path().chars().take(100).collect();
    ApiError::invalid(
        StatusCode::NOT_FOUND,
        "unknown_url",
        format!("there is nothing at {path}; GET / lists the endpoints"),
    )
    .into_response()
}

/// The router adds the header Allow.
async fn wrong_method(method: Method, uri: Uri) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let path: String = uri.path().chars().take(100).collect();
    ApiError::invalid(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{path} does not take {method}; the header Allow lists what it takes"),
    )
    .into_response()
}

fn panicked(_payload: Box<dyn Any + Send>) -> axum::http::Response<Body> {
    // The panic's text may quote a client's; the panic hook has printed where it happened.
    ApiError::internal("the request failed on a bug of the server; the log says where").into_response()
}
