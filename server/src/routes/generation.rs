//! What all routes that generate text do with a request once it has been read.

use std::time::Instant;

use axum::Extension;
use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::Response;
use polylora_engine::{GenerateError, GenerateRequest};

use super::who_answered::name_who_answered;
use crate::embedder::Embedder;
use crate::event_stream::{EventWriter, StreamParts, streamed};
use crate::generation_replies::{Arrival, Progress, PromptError, PromptFacts, Replies, WholeReply};
use crate::llm::Llm;
use crate::request_log::{RequestId, Served};
use crate::request_trace::Stages;
use crate::shutdown::CutOff;
use crate::state::AppState;
use crate::wire::error::ApiError;
use crate::wire::generate_error::FieldNames;
use crate::wire::llm_choice::{LlmRules, generates_nothing, no_llm};
use crate::wire::reply_head::ReplyHead;

/// Who asks, and what ends the reply to him when the server stops.
pub(crate) struct Caller {
    headers: HeaderMap,
    request: RequestId,
    cut_off: CutOff,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let cut_off = Extension::<CutOff>::from_request_parts(parts, state).await;
        let Extension(cut_off) = cut_off.map_err(|error| ApiError::internal(error.body_text()))?;
        let request = parts.extensions.get::<RequestId>().cloned();
        let request = request.unwrap_or_else(|| RequestId(String::new()));
        Ok(Self { headers: parts.headers.clone(), request, cut_off })
    }
}

/// What a request has come to in the engine's terms.
pub(super) struct Job {
    /// One a prompt.
    pub(super) requests: Vec<GenerateRequest>,
    /// The name that the reply repeats.
    pub(super) model: String,
    /// How its errors name the fields.
    pub(super) names: FieldNames,
    /// Who the client's user is.
    pub(super) user: Option<String>,
}

/// A job that the engine has been given.
pub(super) struct Running<'a> {
    state: &'a AppState,
    llm: &'a Llm,
    caller: Caller,
    replies: Replies,
    prompts: usize,
    model: String,
    names: FieldNames,
}

impl AppState {
    /// What generates.
    ///
    /// # Errors
    /// 400 where nothing does.
    pub(super) fn generating(&self) -> Result<&Llm, ApiError> {
        self.llm().ok_or_else(no_llm)
    }

    /// The names that a generation request may have.
    pub(super) fn llm_rules<'a>(&'a self, llm: &'a Llm) -> LlmRules<'a> {
        LlmRules { llm: llm.names(), embedding: self.embedder().map(Embedder::names) }
    }
}

impl Job {
    /// Gives it to the engine.
    pub(super) fn start<'a>(self, state: &'a AppState, llm: &'a Llm, caller: Caller) -> Running<'a> {
        let Self { mut requests, model, names, user } = self;
        for request in requests.iter_mut().filter(|request| request.adapter.is_some()) {
            request.split_key = state.split_key(user.as_deref(), &caller.headers, Some(&caller.request));
        }
        let prompts = requests.len();
        let replies = Replies::start(llm.service(), requests);
        Running { state, llm, caller, replies, prompts, model, names }
    }
}

impl Running<'_> {
    /// What every piece of the reply repeats.
    pub(super) fn head(&self, prefix: &str) -> ReplyHead {
        let RequestId(request) = &self.caller.request;
        ReplyHead::new(prefix, request, self.model.clone(), self.llm.service().model())
    }

    /// How its errors name the fields.
    pub(super) fn names(&self) -> &FieldNames {
        &self.names
    }

    /// The whole reply, written by `write`, which also says how many tokens it took.
    ///
    /// # Errors
    /// The first error of a prompt, and `write`'s.
    pub(super) async fn whole(
        self,
        write: impl FnOnce(Vec<WholeReply>) -> Result<(Response, usize), ApiError>,
    ) -> Result<Response, ApiError> {
        let Self { state, llm, replies, prompts, model, names, .. } = self;
        let replies = replies.whole().await.map_err(|error| told(state, llm, &names, &error))?;
        // Of the prompt that was computed first.
        let first = replies.iter().map(|reply| &reply.facts).min_by_key(|facts| facts.started);
        let facts = first.cloned().unwrap_or_default();
        let decode = facts.started.map(|started| started.elapsed());
        let stages = Some((Stages { decode, ..facts.timings.into() }, Instant::now()));
        let (mut response, tokens) = write(replies)?;
        finish(&mut response, &facts, Served { model, inputs: prompts, tokens, goes_on: false, stages });
        Ok(response)
    }

    /// The reply piece by piece. It begins when the first prompt has been computed, so that what is refused has its status.
    ///
    /// # Errors
    /// An error before the first piece.
    pub(super) async fn streamed(mut self, writer: Box<dyn EventWriter>) -> Result<Response, ApiError> {
        let first = match self.replies.first().await {
            None => None,
            Some(Ok(arrival)) => Some(arrival),
            Some(Err(error)) => return Err(told(self.state, self.llm, &self.names, &error)),
        };
        let facts = match &first {
            Some(Arrival { progress: Progress::Started(facts), .. }) => facts.clone(),
            _ => PromptFacts::default(),
        };
        let served = Served {
            model: self.model.clone(),
            inputs: self.prompts,
            tokens: facts.tokens.len(),
            goes_on: true,
            stages: facts.started.map(|started| (facts.timings.into(), started)),
        };
        let Caller { request: RequestId(request), cut_off, .. } = self.caller;
        let mut response = streamed(StreamParts {
            replies: self.replies,
            first,
            writer,
            cut_off,
            request,
            model: self.model,
            started: facts.started,
            prompt_tokens: facts.tokens.len(),
        });
        finish(&mut response, &facts, served);
        Ok(response)
    }
}

/// The error of a prompt. A name that only the embedding model knows is told apart from one that nobody has.
fn told(state: &AppState, llm: &Llm, names: &FieldNames, error: &PromptError) -> ApiError {
    let PromptError { prompt, error } = error;
    match error {
        GenerateError::UnknownAdapter { name }
            if state.embedder().is_some_and(|embedder| embedder.serves(name)) =>
        {
            generates_nothing(name, llm.names().primary()).naming(names.model)
        }
        _ => ApiError::generating(error, *prompt, names),
    }
}

/// What every reply has beside its body.
fn finish(response: &mut Response, facts: &PromptFacts, served: Served) {
    name_who_answered(response, facts.served_by.as_ref(), facts.fallback_reason.as_deref());
    response.extensions_mut().insert(served);
}
