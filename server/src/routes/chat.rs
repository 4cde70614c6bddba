//! `POST /v1/chat/completions`.

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
use crate::wire::chat::{ChatFields, ConversationFields, ReadChat};
use crate::wire::chat_reply::{ChatChunk, ChatResponse, ChatWriter};
use crate::wire::error::ApiError;
use crate::wire::generation_fields::GenerationFields;

/// The path.
pub const PATH: &str = "/v1/chat/completions";

/// Replies to a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", tag = OPENAI, request_body = ChatFields,
    responses((status = 200, description = "The reply; with `stream` piece by piece, and `[DONE]` at the end",
               content((ChatResponse = "application/json"), (ChatChunk = "text/event-stream")))))]
pub(crate) async fn chat(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    updater: Result<Updater, ApiError>,
    JsonParts((common, conversation, own)): JsonParts<(GenerationFields, ConversationFields, ChatFields)>,
) -> Result<Response, ApiError> {
    let llm = state.generating()?;
    let ReadChat { request, chosen, names, streamed, form, user, lora_request } =
        own.read(conversation, common.read(state.llm_rules(llm))?)?;
    lora::bring_along(&state, updater, lora_request.as_ref()).await?;
    let job = Job { requests: vec![request], model: chosen.name, names, user };
    let running = job.start(&state, llm, caller);
    let head = running.head("chatcmpl");
    match streamed {
        Some(streamed) => {
            let names = running.names().clone();
            running.streamed(Box::new(ChatWriter::new(head, form, streamed, names))).await
        }
        None => {
            let write = |replies: Vec<_>| {
                let reply = replies.into_iter().next().unwrap_or_default();
                let response = ChatResponse::new(head, &form, reply);
                let tokens = response.usage().total_tokens;
                Ok((Json(response).into_response(), tokens))
            };
            running.whole(write).await
        }
    }
}
