//! The document and Swagger UI, whose files are in the program: the page asks no other host for anything.

use std::sync::{Arc, LazyLock};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde_json::Value;
use utoipa_swagger_ui::{Config, serve};

use crate::state::AppState;
use crate::wire::error::ApiError;

/// Path of the document.
pub(crate) const DOCUMENT: &str = "/openapi.json";
/// Path of the page.
pub(crate) const PAGE: &str = "/docs";
/// Paths of the page's files; that of the page itself is the empty one.
pub(crate) const PAGE_FILES: &str = "/docs/{*file}";

/// The OpenAPI document, with the bounds of the model that is served.
#[utoipa::path(get, path = "/openapi.json", tag = super::OPERATIONS,
    responses((status = 200, description = "This document", body = Object)))]
pub(crate) async fn document(State(state): State<Arc<AppState>>) -> Json<Value> {
    Json(super::document(&state))
}

/// Sends to where relative links of the page work.
pub(crate) async fn to_page() -> Redirect {
    Redirect::permanent("/docs/")
}

/// The page.
pub(crate) async fn page() -> Result<Response, ApiError> {
    file_named("")
}

/// A file of the page.
pub(crate) async fn page_file(Path(file): Path<String>) -> Result<Response, ApiError> {
    file_named(&file)
}

fn file_named(name: &str) -> Result<Response, ApiError> {
    static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
        // Else the page sends the document to a checker on the web.
        Arc::new(Config::from(DOCUMENT).validator_url("none").persist_authorization(true))
    });
    let file = serve(name, Arc::clone(&CONFIG)).map_err(|error| ApiError::internal(error.to_string()))?;
    let Some(file) = file else {
        let message = "the page has no such file";
        return Err(ApiError::invalid(StatusCode::NOT_FOUND, "unknown_url", message));
    };
    let kind = HeaderValue::from_str(&file.content_type);
    let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    Ok(([(header::CONTENT_TYPE, kind)], file.bytes.into_owned()).into_response())
}
