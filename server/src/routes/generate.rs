//! `/generate` and `/generate_stream` of text-generation-inference and LoRAX, and `POST /`, which is both.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};

use super::generation::{Caller, Job, Running};
use crate::api_doc::TGI;
use crate::generation_replies::WholeReply;
use crate::state::AppState;
use crate::wire::body::JsonBody;
use crate::wire::error::ApiError;
use crate::wire::tgi::{GenerateBody, GenerateForm, ReadGenerate};
use crate::wire::tgi_error::TgiError;
use crate::wire::tgi_reply::{GeneratePiece, GenerateResponse, GenerateWriter};

/// The paths, without `/`.
pub const PATHS: [&str; 2] = ["/generate", "/generate_stream"];
/// The path that is both.
const FRONT: &str = "/";

/// The routes of this dialect, without `/`.
pub(super) fn routes() -> Router<Arc<AppState>> {
    Router::new().route(PATHS[0], post(generate)).route(PATHS[1], post(generate_stream))
}

/// Tells an error on one of these routes in their own words, wherever it was found.
pub(super) async fn in_tgis_words(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let is_ours =
        path.is_some_and(|path| PATHS.contains(&path) || (path == FRONT && request.method() == Method::POST));
    let mut response = next.run(request).await;
    if !is_ours {
        return response;
    }
    match response.extensions_mut().remove::<ApiError>() {
        Some(error) => TgiError::from(error).instead_of(response),
        None => response,
    }
}

/// Whether a request to this path, which no route has seen, is to be answered in this dialect's words.
pub(crate) fn speaks_tgi(path: &str) -> bool {
    PATHS.contains(&path)
}

/// Continues a text.
#[utoipa::path(post, path = "/generate", tag = TGI, request_body = GenerateBody,
    responses((status = 200, description = "The continuation", body = GenerateResponse)))]
pub(crate) async fn generate(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    JsonBody(body): JsonBody<GenerateBody>,
) -> Result<Response, ApiError> {
    let (running, form, _) = start(&state, caller, body)?;
    whole(running, form, |response| Json(response).into_response()).await
}

/// Continues a text, token by token.
#[utoipa::path(post, path = "/generate_stream", tag = TGI, request_body = GenerateBody,
    responses((status = 200, description = "A piece a token", body = GeneratePiece, content_type = "text/event-stream")))]
pub(crate) async fn generate_stream(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    JsonBody(body): JsonBody<GenerateBody>,
) -> Result<Response, ApiError> {
    let (running, form, _) = start(&state, caller, body)?;
    streamed(running, form).await
}

/// Continues a text, whole or with `stream` token by token.
#[utoipa::path(post, path = "/", tag = TGI, request_body = GenerateBody,
    responses((status = 200, description = "A list with the continuation; with `stream` a piece a token",
               content((Vec<GenerateResponse> = "application/json"), (GeneratePiece = "text/event-stream")))))]
pub(crate) async fn either(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    JsonBody(body): JsonBody<GenerateBody>,
) -> Result<Response, ApiError> {
    let (running, form, stream) = start(&state, caller, body)?;
    match stream {
        true => streamed(running, form).await,
        false => whole(running, form, |response| Json([response]).into_response()).await,
    }
}

fn start(
    state: &AppState,
    caller: Caller,
    body: GenerateBody,
) -> Result<(Running<'_>, GenerateForm, bool), ApiError> {
    let llm = state.generating()?;
    let ReadGenerate { request, chosen, names, form, stream } = body.read(state.llm_rules(llm))?;
    let job = Job { requests: vec![request], model: chosen.name, names, user: None };
    Ok((job.start(state, llm, caller), form, stream))
}

async fn whole(
    running: Running<'_>,
    form: GenerateForm,
    respond: impl FnOnce(GenerateResponse) -> Response,
) -> Result<Response, ApiError> {
    let write = |replies: Vec<WholeReply>| {
        let reply = replies.into_iter().next().unwrap_or_default();
        let tokens =
            reply.facts.tokens.len() + reply.copies.iter().map(|copy| copy.tokens.len()).sum::<usize>();
        Ok((respond(GenerateResponse::new(form, reply)), tokens))
    };
    running.whole(write).await
}

async fn streamed(running: Running<'_>, form: GenerateForm) -> Result<Response, ApiError> {
    if form.prefill {
        let message = "`parameters.decoder_input_details` come with a whole reply only: leave it out";
        let error = ApiError::invalid(StatusCode::BAD_REQUEST, "invalid_value", message);
        return Err(error.naming("parameters.decoder_input_details"));
    }
    running.streamed(Box::new(GenerateWriter::new(form))).await
}
