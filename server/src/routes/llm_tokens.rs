//! vLLM's `/tokenize`, which shares its path with text-embeddings-inference's, and its `/detokenize`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use polylora_engine::GenerateError;

use crate::api_doc::OPENAI;
use crate::llm::Llm;
use crate::request_log::Served;
use crate::state::AppState;
use crate::wire::body::JsonBody;
use crate::wire::error::ApiError;
use crate::wire::generate_error::FieldNames;
use crate::wire::llm_choice::ChosenLlm;
use crate::wire::llm_tokens::{DetokenizeBody, DetokenizedText, PromptTokens, PromptTokensFields};

/// The path of the text of tokens.
pub const DETOKENIZE: &str = "/detokenize";

/// The tokens of a prompt, for a body in vLLM's form. Errors are told in OpenAI's words although the path is another dialect's.
pub(super) async fn tokenize(state: &AppState, body: &[u8]) -> Response {
    prompt_tokens(state, body).await.unwrap_or_else(|error| {
        let mut response = error.into_response();
        response.extensions_mut().remove::<ApiError>();
        response
    })
}

async fn prompt_tokens(state: &AppState, body: &[u8]) -> Result<Response, ApiError> {
    let llm = state.generating()?;
    let (model, read) = PromptTokensFields::read(body)?;
    let (name, adapter) = served(state, llm, model.as_deref())?;
    let texts = read.texts;
    let tokens = llm
        .service()
        .tokenize(read.prompt, adapter, read.add_special_tokens)
        .await
        .map_err(about("prompt"))?;
    let count = tokens.len();
    let told = PromptTokens::new(tokens, llm.service().model().max_model_len, texts);
    let mut response = Json(told).into_response();
    response.extensions_mut().insert(Served::unmeasured(name, 1, count));
    Ok(response)
}

/// The text of token ids, as the model that generates has them.
#[utoipa::path(post, path = "/detokenize", tag = OPENAI, request_body = DetokenizeBody,
    responses((status = 200, description = "The text", body = DetokenizedText)))]
pub(crate) async fn detokenize(
    State(state): State<Arc<AppState>>,
    JsonBody(body): JsonBody<DetokenizeBody>,
) -> Result<Response, ApiError> {
    let llm = state.generating()?;
    let (model, ids) = body.read()?;
    let (name, _) = served(&state, llm, model.as_deref())?;
    let count = ids.len();
    let prompt = llm.service().detokenize(ids).await.map_err(about("tokens"))?;
    let mut response = Json(DetokenizedText { prompt }).into_response();
    response.extensions_mut().insert(Served::unmeasured(name, 1, count));
    Ok(response)
}

/// The name of the model that is meant, and the adapter. All have one tokenizer, but a name must be somebody's.
fn served(state: &AppState, llm: &Llm, model: Option<&str>) -> Result<(String, Option<String>), ApiError> {
    let ChosenLlm { adapter, name, .. } = state.llm_rules(llm).choose(model, &[])?;
    match adapter {
        Some(adapter) if !llm.serves(&adapter) => Err(ApiError::model_not_found(&adapter)),
        adapter => Ok((name, adapter)),
    }
}

fn about(prompt: &'static str) -> impl FnOnce(GenerateError) -> ApiError {
    let names = FieldNames { prompt, is_list: false, model: "model", logprobs: "logprobs" };
    move |error| ApiError::generating(&error, 0, &names)
}
