//! vLLM's way to load and unload adapters while the server runs, and llama.cpp's list of them.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use polylora_adapters::{About, Activate, AdapterName, Change, RegisterFolder};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::adapters::{Deed, blocking, fleet, tag};
use crate::admin::Updater;
use crate::api_doc::FLEET;
use crate::state::AppState;
use crate::wire::adapter_changes::adapter_name;
use crate::wire::body::JsonBody;
use crate::wire::error::ApiError;
use crate::wire::fields::LoraRequest;

/// vLLM's two paths.
pub const LOAD: &str = "/v1/load_lora_adapter";
/// The other.
pub const UNLOAD: &str = "/v1/unload_lora_adapter";
/// llama.cpp's path.
pub const LIST: &str = "/lora-adapters";

/// The routes.
pub(super) fn routes() -> Router<Arc<AppState>> {
    Router::new().route(LOAD, post(load)).route(UNLOAD, post(unload)).route(LIST, get(list))
}

/// What vLLM's clients send to load an adapter.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct LoadBody {
    lora_name: Option<String>,
    /// A folder within the server's folders of adapters.
    lora_path: Option<String>,
    /// Load it although the name is there already: from the next request on the new content answers.
    load_inplace: Option<bool>,
}

/// What vLLM's clients send to unload one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct UnloadBody {
    lora_name: Option<String>,
    /// The adapter's number, where the name is not given.
    lora_int_id: Option<u64>,
}

/// An adapter as llama.cpp lists it.
#[derive(Debug, Serialize, ToSchema)]
pub struct LlamaAdapter {
    id: u64,
    path: String,
    /// 0: an adapter applies to the requests that name it.
    scale: f32,
    name: String,
}

/// Loads an adapter, as vLLM does.
#[utoipa::path(post, path = "/v1/load_lora_adapter", tag = FLEET, request_body = LoadBody,
    responses((status = 200, description = "It answers from now on", body = String, content_type = "text/plain")))]
pub(crate) async fn load(
    State(state): State<Arc<AppState>>,
    Updater(actor): Updater,
    JsonBody(body): JsonBody<LoadBody>,
) -> Result<Response, ApiError> {
    let filled = |field: Option<String>| field.filter(|text| !text.is_empty());
    let (Some(name), Some(path)) = (filled(body.lora_name), filled(body.lora_path)) else {
        return Err(invalid_input("Both 'lora_name' and 'lora_path' must be provided."));
    };
    let name = new_name(&state, &name, "lora_name")?;
    let is_there = fleet(&state)?.version(name.as_str(), None).is_some();
    if is_there && !body.load_inplace.unwrap_or(false) {
        return Err(invalid_input(&format!(
            "The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to True."
        )));
    }
    let deed = Deed { actor, action: "load", name: name.clone() };
    register(&state, deed, PathBuf::from(path), Activate::Now).await?;
    Ok(plain(format!("Success: LoRA adapter '{name}' added successfully.")))
}

/// Unloads an adapter, as vLLM does. A folder of `--adapters-dir` is found again when its name is asked for.
#[utoipa::path(post, path = "/v1/unload_lora_adapter", tag = FLEET, request_body = UnloadBody,
    responses((status = 200, description = "It is gone", body = String, content_type = "text/plain")))]
pub(crate) async fn unload(
    State(state): State<Arc<AppState>>,
    Updater(actor): Updater,
    JsonBody(body): JsonBody<UnloadBody>,
) -> Result<Response, ApiError> {
    let fleet = fleet(&state)?;
    let by_id = || {
        let id = polylora_adapters::VersionId(body.lora_int_id?);
        fleet.version_by_id(id).map(|version| version.name.to_string())
    };
    let named = body.lora_name.clone().filter(|name| !name.is_empty());
    if named.is_none() && body.lora_int_id.is_none() {
        return Err(invalid_input("either 'lora_name' and 'lora_int_id' needs to be provided."));
    }
    let asked = named.or_else(by_id).unwrap_or_else(|| body.lora_int_id.unwrap_or_default().to_string());
    let known = AdapterName::new(&asked).ok().filter(|name| !fleet.list_of(name.as_str()).is_empty());
    let Some(name) = known else {
        let message = format!("The lora adapter '{asked:.100}' cannot be found.");
        return Err(
            ApiError::invalid(StatusCode::NOT_FOUND, "adapter_not_found", message).naming("lora_name")
        );
    };
    let change = Change::Delete { name: name.clone(), version: None, is_buried: false, expect: None };
    Deed { actor, action: "unload", name: name.clone() }.change(&state, change).await?;
    Ok(plain(format!("Success: LoRA adapter '{name}' removed successfully.")))
}

/// The adapters that answer, as llama.cpp's server lists them.
#[utoipa::path(get, path = "/lora-adapters", tag = FLEET,
    responses((status = 200, description = "The adapters", body = Vec<LlamaAdapter>)))]
pub(crate) async fn list(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let fleet = state.fleet().cloned();
    let served = blocking(move || fleet.map(|fleet| fleet.served()).unwrap_or_default()).await?;
    let adapters = served.into_iter().map(|version| LlamaAdapter {
        id: version.id.0,
        path: version.source.folder().map_or_else(String::new, |path| path.display().to_string()),
        scale: 0.0,
        name: version.name.to_string(),
    });
    Ok(Json(adapters.collect::<Vec<_>>()).into_response())
}

/// Loads the adapter of a `lora_request` that brings a path, if its name is nobody's yet.
///
/// # Errors
/// 403 where that is not allowed, and what is wrong with path or adapter.
pub(super) async fn bring_along(
    state: &Arc<AppState>,
    updater: Result<Updater, ApiError>,
    request: Option<&LoraRequest>,
) -> Result<(), ApiError> {
    let Some(request) = request else { return Ok(()) };
    let Some(path) = request.lora_path.as_deref().filter(|path| !path.is_empty()) else { return Ok(()) };
    let fleet = fleet(state)?;
    if fleet.version(&request.lora_name, None).is_some() {
        return Ok(());
    }
    let Updater(actor) = updater?;
    let name = new_name(state, &request.lora_name, "lora_request.lora_name")?;
    let deed = Deed { actor, action: "load", name };
    register(state, deed, PathBuf::from(path), Activate::IfVacant).await
}

/// A name that an adapter may get; errors are about `field`.
fn new_name(state: &AppState, text: &str, field: &'static str) -> Result<AdapterName, ApiError> {
    let name = adapter_name(text).map_err(|error| error.naming(field))?;
    state.may_be_an_adapters(&name)?;
    Ok(name)
}

async fn register(
    state: &Arc<AppState>,
    deed: Deed,
    path: PathBuf,
    activate: Activate,
) -> Result<(), ApiError> {
    let (name, about) = (deed.name.clone(), About::default());
    let folder = RegisterFolder { name, path, label: None, about, activate };
    deed.done(state, tag, |fleet| fleet.register_folder(folder)).await.map(drop)
}

/// vLLM's error for what it calls invalid input of users.
fn invalid_input(message: &str) -> ApiError {
    ApiError::invalid(StatusCode::BAD_REQUEST, "invalid_user_input", message)
}

fn plain(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}
