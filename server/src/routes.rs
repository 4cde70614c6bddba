//! Which path answers what.

mod adapter_probe;
pub mod adapters;
pub mod chat;
pub mod completions;
pub mod generate;
mod generation;
pub mod llm_tokens;
pub mod lora;
pub mod tei;
mod who_answered;

use std::any::Any;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use polylora_engine::{EmbedError, Health};
use serde_json::json;
use tower_http::catch_panic::CatchPanicLayer;

use self::who_answered::name_who_answered;
use crate::admin::Updater;
use crate::api_doc::{OPENAI, OPERATIONS, page as api_page};
use crate::auth::require_key;
use crate::cors;
use crate::fleet_metrics;
use crate::intake::bring_in;
use crate::metric_families::joined;
use crate::page;
use crate::request_log::{RequestId, Served, record};
use crate::settings::Origin;
use crate::shutdown::{CutOff, until_cut_off};
use crate::startup::starting;
use crate::state::AppState;
use crate::wire::body::JsonBody;
use crate::wire::error::ApiError;
use crate::wire::models::{ModelList, ModelObject};
use crate::wire::openai::{EmbeddingsRequest, EmbeddingsResponse, ReadRequest};
use crate::wire::status::ServerStatus;
use crate::wire::tei_timing::Timer;

/// Path of the health check.
pub const HEALTH: &str = "/health";
/// The health check under the name that text-embeddings-inference also gives it.
pub const PING: &str = "/ping";
/// Path of the metrics.
pub const METRICS: &str = "/metrics";

/// Path of the check whether requests would be served.
pub const READY: &str = "/ready";
/// Paths of the probes.
pub const PROBES: [&str; 3] = [HEALTH, PING, READY];
/// Path of the live figures.
pub const STATUS: &str = "/api/status";

const EMBEDDINGS: &str = "/v1/embeddings";
/// The same without a version, as text-embeddings-inference has it.
const EMBEDDINGS_UNVERSIONED: &str = "/embeddings";
const MODELS: &str = "/v1/models";
const MODEL: &str = "/v1/models/{*id}";
/// The paths that need a model which makes embeddings.
pub(crate) const EMBEDDING: [&str; 5] = [EMBEDDINGS, "/embed", "/embed_all", "/similarity", "/decode"];
/// The paths that need a model which generates text.
pub(crate) const GENERATING: [&str; 5] =
    [completions::PATH, chat::PATH, generate::PATHS[0], generate::PATHS[1], llm_tokens::DETOKENIZE];

/// The whole HTTP surface; what `cut_off` finds unanswered gets 503, and pages of `origins` may call it.
pub fn router(state: Arc<AppState>, cut_off: CutOff, origins: &[Origin]) -> Router {
    let routes = Router::new()
        .route("/", get(about).post(generate::either))
        .route(HEALTH, get(health))
        .route(PING, get(health))
        .route(READY, get(ready))
        .route(METRICS, get(metrics))
        .route(STATUS, get(status))
        .merge(page::routes())
        .route(EMBEDDINGS, post(embeddings))
        .route(EMBEDDINGS_UNVERSIONED, post(embeddings))
        .route(MODELS, get(models))
        .route(MODEL, get(model))
        .route(completions::PATH, post(completions::completions))
        .route(chat::PATH, post(chat::chat))
        .route(llm_tokens::DETOKENIZE, post(llm_tokens::detokenize))
        .merge(generate::routes())
        .merge(tei::routes())
        .merge(adapters::routes())
        .merge(lora::routes())
        .route(api_page::DOCUMENT, get(api_page::document))
        .route(api_page::PAGE, get(api_page::to_page))
        .route("/docs/", get(api_page::page))
        .route(api_page::PAGE_FILES, get(api_page::page_file))
        // Under all routes above, and only under those.
        .route_layer(from_fn_with_state(state.clone(), bring_in))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(state.clone(), require_key))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(Extension(cut_off.clone()))
        .layer(from_fn_with_state(cut_off, until_cut_off))
        .layer(from_fn(tei::in_teis_words))
        .layer(from_fn(generate::in_tgis_words));
    let routes = match cors::layer(origins) {
        Some(layer) => routes.layer(layer),
        None => routes,
    };
    routes.layer(from_fn_with_state(state.clone(), record)).with_state(state)
}

/// Embeds inputs.
#[utoipa::path(post, path = "/v1/embeddings", tag = OPENAI, request_body = EmbeddingsRequest,
    responses((status = 200, description = "One embedding an input", body = EmbeddingsResponse)))]
pub(crate) async fn embeddings(
    State(state): State<Arc<AppState>>,
    id: Option<Extension<RequestId>>,
    headers: HeaderMap,
    updater: Result<Updater, ApiError>,
    JsonBody(body): JsonBody<EmbeddingsRequest>,
) -> Result<Response, ApiError> {
    let embedder = state.embedding()?;
    let ReadRequest { mut engine, encoding, model, named_by, user, lora_request } =
        body.read(embedder.rules())?;
    lora::bring_along(&state, updater, lora_request.as_ref()).await?;
    if engine.adapter.is_some() {
        engine.split_key = state.split_key(user.as_deref(), &headers, id.as_deref());
    }
    let inputs = engine.inputs.len();
    let timer = Timer::start(&engine.inputs);
    let reply = embedder.service().embed(engine).await.map_err(|error| {
        if let Some(error) = state.asked_to_embed(&error) {
            return error.naming(named_by);
        }
        let about_adapter = matches!(
            error,
            EmbedError::UnknownAdapter { .. }
                | EmbedError::AdapterInvalid { .. }
                | EmbedError::AdapterTooLarge { .. }
        );
        let error = ApiError::from(error);
        if about_adapter { error.naming(named_by) } else { error }
    })?;
    let served = Served::reply(model.clone(), inputs, &reply);
    if reply.embeddings.len() != inputs {
        let found = reply.embeddings.len();
        return Err(ApiError::internal(format!("{found} embeddings came back for {inputs} inputs")));
    }
    let mut response = EmbeddingsResponse::new(&reply, &model, encoding)?.into_response();
    timer.tell(&mut response, &reply, embedder.service().model());
    name_who_answered(&mut response, reply.served_by.as_ref(), reply.fallback_reason.as_deref());
    response.extensions_mut().insert(served);
    Ok(response)
}

/// The base model under each of its names, and the adapters.
#[utoipa::path(get, path = "/v1/models", tag = OPENAI,
    responses((status = 200, description = "All models", body = ModelList)))]
pub(crate) async fn models(State(state): State<Arc<AppState>>) -> Result<impl IntoResponse, ApiError> {
    // There may be thousands.
    Ok(Json(adapters::blocking(move || state.models().list()).await?))
}

/// One model or adapter.
#[utoipa::path(get, path = "/v1/models/{id}", tag = OPENAI,
    params(("id" = inline(String), Path, description = "Its name; a slash within it may stand as it is.")),
    responses((status = 200, description = "The model", body = ModelObject)))]
pub(crate) async fn model(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Path(name) = name.map_err(|rejection| ApiError::invalid_path(rejection.body_text(), "model"))?;
    state.models().find(&name).map(Json).ok_or_else(|| ApiError::model_not_found(&name))
}

/// Whether the server works.
#[utoipa::path(get, path = "/health", tag = OPERATIONS,
    responses((status = 200, description = "It does", body = Object, example = json!({"status": "ok"}))))]
pub(crate) async fn health(State(state): State<Arc<AppState>>) -> Result<impl IntoResponse, ApiError> {
    check_health(&state).map(|()| Json(json!({"status": "ok"})))
}

/// Whether requests would be served.
#[utoipa::path(get, path = "/ready", tag = OPERATIONS,
    responses((status = 200, description = "They would", body = Object, example = json!({"status": "ready"}))))]
pub(crate) async fn ready(State(state): State<Arc<AppState>>) -> Result<impl IntoResponse, ApiError> {
    check_health(&state).map(|()| Json(json!({"status": "ready"})))
}

fn check_health(state: &AppState) -> Result<(), ApiError> {
    let unavailable = |code, message| Err(ApiError::server(StatusCode::SERVICE_UNAVAILABLE, code, message));
    let embedding = state.embedder().map(|embedder| embedder.service().health());
    let generating = state.llm().map(|llm| llm.service().health());
    let of_both = [embedding, generating].into_iter().flatten();
    match of_both.into_iter().find(|health| *health != Health::Ready).unwrap_or(Health::Ready) {
        Health::Ready => Ok(()),
        Health::Starting => Err(starting()),
        Health::Unavailable => unavailable("unavailable", "the worker is down or the server is stopping"),
    }
}

/// Counters and histograms in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = OPERATIONS,
    responses((status = 200, description = "All metrics", body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    let embedding = state.embedder().map(|embedder| embedder.service().render_metrics()).unwrap_or_default();
    let generation = state.llm().map(|llm| llm.service().render_metrics()).unwrap_or_default();
    let mut text = joined(&embedding, &generation);
    text.push_str(&state.http_metrics().render());
    if let Some(fleet) = state.fleet().cloned() {
        let embedding = state.embedder().map(|embedder| embedder.service().snapshot());
        let generation = state.llm().map(|llm| llm.service().snapshot());
        let domains = [embedding, generation].into_iter().flatten().flat_map(|snapshot| snapshot.domains);
        let (domains, max_loras) = (domains.collect::<Vec<_>>(), state.max_loras());
        let figures = adapters::blocking(move || fleet_metrics::render(&fleet, &domains, max_loras));
        // A panic there has been printed; the other metrics are no worse for it.
        text.push_str(&figures.await.unwrap_or_default());
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

/// What is served and how it fares: what the page at `/` shows. At most 256 adapters and the traffic of 64 are listed.
#[utoipa::path(get, path = "/api/status", tag = OPERATIONS,
    responses((status = 200, description = "The status", body = ServerStatus)))]
pub(crate) async fn status(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], Json(state.status()))
}

/// What this is, and its endpoints; a browser, which asks for HTML, gets the status page.
#[utoipa::path(get, path = "/", tag = OPERATIONS,
    responses((status = 200, description = "Name, version, endpoints, or the status page",
               content((Object = "application/json"), (String = "text/html")))))]
pub(crate) async fn about(State(state): State<Arc<AppState>>, headers: HeaderMap) -> Response {
    if page::prefers_html(&headers) {
        return page::front(&headers);
    }
    let mut endpoints = vec![MODELS, "/v1/models/{id}"];
    if state.embedder().is_some() {
        endpoints.insert(0, EMBEDDINGS);
    }
    if state.llm().is_some() {
        endpoints.extend(GENERATING);
    }
    endpoints.extend(PROBES);
    endpoints.extend([METRICS, STATUS]);
    let is_there = |path: &&str| state.embedder().is_some() || !EMBEDDING.contains(path);
    endpoints.extend(tei::PATHS.into_iter().filter(is_there));
    endpoints.extend([adapters::REGISTRY, adapters::REGISTER, lora::LOAD, lora::UNLOAD, lora::LIST]);
    endpoints.extend([api_page::DOCUMENT, api_page::PAGE]);
    let about = json!({
        "name": "polylora",
        "version": env!("CARGO_PKG_VERSION"),
        "endpoints": endpoints,
    });
    ([(header::VARY, "accept")], Json(about)).into_response()
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
