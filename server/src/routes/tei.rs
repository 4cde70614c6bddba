//! text-embeddings-inference's endpoints, each also under `/{model}` for a model or adapter that the path names.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use polylora_engine::{DecodeRequest, EmbedInput, EmbedReply, EmbedRequest, RowOutput};

use super::llm_tokens;
use super::who_answered::name_who_answered;
use crate::api_doc::TEI;
use crate::embedder::Embedder;
use crate::llm::Llm;
use crate::request_log::{RequestId, Served};
use crate::state::AppState;
use crate::wire::body::{JsonBody, parse_object};
use crate::wire::body_parts::JsonBytes;
use crate::wire::error::ApiError;
use crate::wire::llm_choice::embeds_nothing;
use crate::wire::llm_info::LlmServerInfo;
use crate::wire::llm_tokens::is_vllms;
use crate::wire::tei::{ChosenModel, EmbedAllBody, EmbedBody, SimilarityBody, TeiRequest, similarities};
use crate::wire::tei_error::TeiError;
use crate::wire::tei_info::ServerInfo;
use crate::wire::tei_timing::Timer;
use crate::wire::tei_tokens::{DecodeBody, SimpleToken, TokenizeBody};

/// The endpoints; the same again stand under [`UNDER_A_MODEL`].
pub const PATHS: [&str; 6] = ["/embed", "/embed_all", "/similarity", "/tokenize", "/decode", "/info"];
/// Endpoints for other kinds of models than this server has, and what its model would have to be.
const OF_OTHER_MODELS: [(&str, &str); 3] =
    [("/rerank", "a re-ranker"), ("/predict", "a classifier"), ("/embed_sparse", "a sparse (SPLADE) model")];
/// What stands before a path that names its model.
pub const UNDER_A_MODEL: &str = "/{model}";

/// The routes of this dialect.
pub(super) fn routes() -> Router<Arc<AppState>> {
    let mut router = Router::new();
    for prefix in ["", UNDER_A_MODEL] {
        router = router
            .route(&format!("{prefix}/embed"), post(embed))
            .route(&format!("{prefix}/embed_all"), post(embed_all))
            .route(&format!("{prefix}/similarity"), post(similarity))
            .route(&format!("{prefix}/tokenize"), post(tokenize))
            .route(&format!("{prefix}/decode"), post(decode))
            .route(&format!("{prefix}/info"), get(info));
        for (path, kind) in OF_OTHER_MODELS {
            router = router
                .route(&format!("{prefix}{path}"), post(async move || TeiError::wrong_model_kind(kind)));
        }
    }
    router
}

/// Tells an error on one of these routes in their own words, wherever it was found.
pub(super) async fn in_teis_words(request: Request, next: Next) -> Response {
    let is_ours = request.extensions().get::<MatchedPath>().is_some_and(|path| {
        let path = path.as_str();
        let path = path.strip_prefix(UNDER_A_MODEL).unwrap_or(path);
        endpoints().any(|ours| ours == path)
    });
    let mut response = next.run(request).await;
    if !is_ours {
        return response;
    }
    match response.extensions_mut().remove::<ApiError>() {
        Some(error) => TeiError::from(error).instead_of(response),
        None => response,
    }
}

/// Whether a request to this path, which no route has seen, is to be answered in this dialect's words.
pub(crate) fn speaks_tei(path: &str) -> bool {
    endpoints().filter_map(|route| path.strip_suffix(route)).any(|before| match before.strip_prefix('/') {
        Some(model) => !model.is_empty() && !model.contains('/'),
        None => before.is_empty(),
    })
}

/// The model that the path names; `None` where the path has no place for one.
pub(crate) struct PathModel(Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for PathModel {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = RawPathParams::from_request_parts(parts, state).await;
        let parameters = read.map_err(|rejection: RawPathParamsRejection| {
            ApiError::invalid_path(rejection.body_text(), "model")
        })?;
        Ok(Self(parameters.iter().find(|(name, _)| *name == "model").map(|(_, value)| value.to_owned())))
    }
}

/// Embeds inputs: one vector each.
#[utoipa::path(post, path = "/embed", tag = TEI, request_body = EmbedBody,
    responses((status = 200, description = "One vector an input", body = Vec<Vec<f32>>)))]
pub(crate) async fn embed(
    State(state): State<Arc<AppState>>,
    PathModel(path): PathModel,
    client: Client,
    JsonBody(body): JsonBody<EmbedBody>,
) -> Result<Response, TeiError> {
    let embedder = state.embedding()?;
    let answered = answer(&state, embedder, client, body.read(path.as_deref(), embedder.rules())?).await?;
    let response = json(&answered.reply.embeddings)?;
    Ok(answered.told(response, embedder))
}

/// Embeds inputs token by token, without pooling.
#[utoipa::path(post, path = "/embed_all", tag = TEI, request_body = EmbedAllBody,
    responses((status = 200, description = "One list an input, one vector a token", body = Vec<Vec<Vec<f32>>>)))]
pub(crate) async fn embed_all(
    State(state): State<Arc<AppState>>,
    PathModel(path): PathModel,
    client: Client,
    JsonBody(body): JsonBody<EmbedAllBody>,
) -> Result<Response, TeiError> {
    let embedder = state.embedding()?;
    let answered = answer(&state, embedder, client, body.read(path.as_deref(), embedder.rules())?).await?;
    let width = embedder.service().model().dimensions;
    // Millions of numbers would hold an async thread for too long.
    let writing = tokio::task::spawn_blocking(move || {
        let rows = answered.reply.embeddings.iter();
        let tokens: Vec<Vec<&[f32]>> = rows.map(|row| row.chunks_exact(width).collect()).collect();
        json(&tokens).map(|response| (response, answered))
    });
    let (response, answered) = writing.await.map_err(|error| ApiError::internal(error.to_string()))??;
    Ok(answered.told(response, embedder))
}

/// Compares a sentence with others.
#[utoipa::path(post, path = "/similarity", tag = TEI, request_body = SimilarityBody,
    responses((status = 200, description = "The cosine with each of the others", body = Vec<f32>)))]
pub(crate) async fn similarity(
    State(state): State<Arc<AppState>>,
    PathModel(path): PathModel,
    client: Client,
    JsonBody(body): JsonBody<SimilarityBody>,
) -> Result<Response, TeiError> {
    let embedder = state.embedding()?;
    let answered = answer(&state, embedder, client, body.read(path.as_deref(), embedder.rules())?).await?;
    let response = json(&similarities(&answered.reply.embeddings))?;
    Ok(answered.told(response, embedder))
}

/// The tokens of texts. With `prompt` or `messages` in the place of `inputs` the body and the reply are vLLM's, for the model that
/// generates.
#[utoipa::path(post, path = "/tokenize", tag = TEI, request_body = TokenizeBody,
    responses((status = 200, description = "One list a text", body = Vec<Vec<SimpleToken>>)))]
pub(crate) async fn tokenize(
    State(state): State<Arc<AppState>>,
    PathModel(path): PathModel,
    JsonBytes(bytes): JsonBytes,
) -> Result<Response, TeiError> {
    // vLLM has the same path with other fields.
    if path.is_none() && is_vllms(&bytes) {
        return Ok(llm_tokens::tokenize(&state, &bytes).await);
    }
    let embedder = state.embedding()?;
    let body: TokenizeBody = parse_object(&bytes)?;
    let (request, chosen) = body.read(path.as_deref(), embedder.rules())?;
    check_served(&state, embedder, &chosen)?;
    let inputs = request.texts.len();
    let lists = embedder.service().tokenize(request).await?;
    let tokens = lists.iter().map(Vec::len).sum();
    let lists: Vec<Vec<SimpleToken>> =
        lists.into_iter().map(|list| list.into_iter().map(SimpleToken::from).collect()).collect();
    let mut response = json(&lists)?;
    response.extensions_mut().insert(Served::unmeasured(chosen.name, inputs, tokens));
    Ok(response)
}

/// The texts of token ids.
#[utoipa::path(post, path = "/decode", tag = TEI, request_body = DecodeBody,
    responses((status = 200, description = "One text a list", body = Vec<String>)))]
pub(crate) async fn decode(
    State(state): State<Arc<AppState>>,
    PathModel(path): PathModel,
    JsonBody(body): JsonBody<DecodeBody>,
) -> Result<Response, TeiError> {
    let embedder = state.embedding()?;
    let (request, chosen) = body.read(path.as_deref(), embedder.rules())?;
    check_served(&state, embedder, &chosen)?;
    let (inputs, tokens) = (request.ids.len(), request.ids.iter().map(Vec::len).sum());
    let mut response = json(&embedder.service().decode(request).await?)?;
    response.extensions_mut().insert(Served::unmeasured(chosen.name, inputs, tokens));
    Ok(response)
}

/// What is served, and within which bounds.
#[utoipa::path(get, path = "/info", tag = TEI,
    responses((status = 200, description = "The model and the bounds", body = ServerInfo)))]
pub(crate) async fn info(
    State(state): State<Arc<AppState>>,
    PathModel(path): PathModel,
) -> Result<Response, TeiError> {
    let embedder = match (state.embedder(), state.llm()) {
        (None, Some(llm)) => return llm_info(&state, llm, path.as_deref()),
        _ => state.embedding()?,
    };
    let rules = embedder.rules();
    let name = path.as_deref().unwrap_or_else(|| rules.names.primary());
    let adapter = rules.names.resolve(name).adapter().map(str::to_owned);
    check_served(&state, embedder, &ChosenModel { adapter, name: name.to_owned() })?;
    let service = embedder.service();
    Ok(Json(ServerInfo::new(service.model(), service.limits(), name, rules.auto_truncate)).into_response())
}

/// The same of a server that only generates text, in text-generation-inference's words.
fn llm_info(state: &AppState, llm: &Llm, path: Option<&str>) -> Result<Response, TeiError> {
    let name = path.unwrap_or_else(|| llm.names().primary());
    match llm.names().resolve(name).adapter() {
        Some(adapter) if !llm.serves(adapter) => Err(ApiError::model_not_found(adapter).into()),
        _ => Ok(Json(LlmServerInfo::new(llm.service().model(), name, state.max_requests())).into_response()),
    }
}

/// All paths of this dialect, those included that only say what is missing.
fn endpoints() -> impl Iterator<Item = &'static str> {
    PATHS.into_iter().chain(OF_OTHER_MODELS.into_iter().map(|(path, _)| path))
}

/// What tells a client from others.
pub(crate) struct Client {
    headers: HeaderMap,
    id: Option<RequestId>,
}

impl<S: Send + Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self { headers: parts.headers.clone(), id: parts.extensions.get().cloned() })
    }
}

/// What the engine answered to a request.
struct Answered {
    reply: EmbedReply,
    timer: Timer,
    served: Served,
}

impl Answered {
    /// The response with its headers, and with what the log line needs.
    fn told(self, mut response: Response, embedder: &Embedder) -> Response {
        self.timer.tell(&mut response, &self.reply, embedder.service().model());
        let EmbedReply { served_by, fallback_reason, .. } = &self.reply;
        name_who_answered(&mut response, served_by.as_ref(), fallback_reason.as_deref());
        response.extensions_mut().insert(self.served);
        response
    }
}

async fn answer(
    state: &AppState,
    embedder: &Embedder,
    client: Client,
    request: TeiRequest,
) -> Result<Answered, TeiError> {
    let TeiRequest { mut engine, model } = request;
    if engine.adapter.is_some() {
        engine.split_key = state.split_key(None, &client.headers, client.id.as_ref());
    }
    let timer = Timer::start(&engine.inputs);
    let (inputs, output) = (engine.inputs.len(), engine.output);
    if engine.prompt_name.is_some() {
        texts_for_prompt(embedder, &mut engine).await?;
    }
    let width = engine.dimensions.unwrap_or(embedder.service().model().dimensions);
    let reply = embedder.service().embed(engine).await;
    let reply = reply.map_err(|error| state.asked_to_embed(&error).map_or(error.into(), TeiError::from))?;
    let served = Served::reply(model, inputs, &reply);
    let is_whole = |row: &Vec<f32>| match output {
        RowOutput::Tokens => !row.is_empty() && row.len().is_multiple_of(width),
        _ => row.len() == width,
    };
    if reply.embeddings.len() != inputs || !reply.embeddings.iter().all(is_whole) {
        let found = reply.embeddings.len();
        let reason = format!("{found} embeddings came back for {inputs} inputs, or not all were whole");
        return Err(polylora_engine::EmbedError::Internal { reason }.into());
    }
    if reply.embeddings.iter().flatten().any(|value| !value.is_finite()) {
        let reason = "an embedding has a value that is not finite".to_owned();
        return Err(polylora_engine::EmbedError::Internal { reason }.into());
    }
    Ok(Answered { reply, timer, served })
}

/// A prompt goes in front of a text, so token ids that are to have one become a text again.
async fn texts_for_prompt(embedder: &Embedder, request: &mut EmbedRequest) -> Result<(), TeiError> {
    let lists = request.inputs.iter().filter_map(|input| match input {
        EmbedInput::Tokens(ids) => Some(ids.clone()),
        EmbedInput::Text(_) => None,
    });
    let ids: Vec<Vec<u32>> = lists.collect();
    if ids.is_empty() {
        return Ok(());
    }
    let mut texts =
        embedder.service().decode(DecodeRequest { ids, skip_special_tokens: true }).await?.into_iter();
    for input in &mut request.inputs {
        if let (EmbedInput::Tokens(_), Some(text)) = (&*input, texts.next()) {
            *input = EmbedInput::Text(text);
        }
    }
    Ok(())
}

/// The base model and its adapters have one tokenizer and one set of bounds; but a name must be one of theirs.
fn check_served(state: &AppState, embedder: &Embedder, chosen: &ChosenModel) -> Result<(), ApiError> {
    match chosen.adapter.as_deref() {
        Some(name) if !embedder.serves(name) => match state.llm() {
            Some(llm) if llm.serves(name) => {
                Err(embeds_nothing(name, embedder.names().primary()).naming("model"))
            }
            _ => Err(ApiError::model_not_found(name)),
        },
        _ => Ok(()),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Response, TeiError> {
    let body = serde_json::to_vec(value).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}
