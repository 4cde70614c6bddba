//! `POST /v1/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::generation::{Caller, Job};
use super::lora;
use crate::admin::Updater;
use crate::api_doc::OPENAI;
use crate::state::AppState;
use crate::wire::body_parts::JsonParts;
use crate::wire::completion_reply::{CompletionChunk, CompletionResponse, CompletionWriter};
use crate::wire::completions::{CompletionFields, ReadCompletion};
use crate::wire::error::ApiError;
use crate::wire::generation_fields::GenerationFields;

/// The path.
pub const PATH: &str = "/v1/completions";

/// Continues prompts.
#[utoipa::path(post, path = "/v1/completions", tag = OPENAI, request_body = CompletionFields,
    responses((status = 200, description = "The copies of each prompt; with `stream` piece by piece, and `[DONE]` at the end",
               content((CompletionResponse = "application/json"), (CompletionChunk = "text/event-stream")))))]
pub(crate) async fn completions(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    updater: Result<Updater, ApiError>,
    JsonParts((common, own)): JsonParts<(GenerationFields, CompletionFields)>,
) -> Result<Response, ApiError> {
    let llm = state.generating()?;
    let ReadCompletion { requests, chosen, names, streamed, form, user, lora_request } =
        own.read(common.read(state.llm_rules(llm))?)?;
    lora::bring_along(&state, updater, lora_request.as_ref()).await?;
    let running = Job { requests, model: chosen.name, names, user }.start(&state, llm, caller);
    let head = running.head("cmpl");
    match streamed {
        Some(streamed) => {
            let names = running.names().clone();
            running.streamed(Box::new(CompletionWriter::new(head, form, streamed, names))).await
        }
        None => {
            let write = |replies| {
                let response = CompletionResponse::new(head, form, replies)?;
                let tokens = response.usage().total_tokens;
                Ok((Json(response).into_response(), tokens))
            };
            running.whole(write).await
        }
    }
}
