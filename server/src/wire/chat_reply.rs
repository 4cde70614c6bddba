//! The reply of `POST /v1/chat/completions`, whole and in pieces.

use polylora_engine::GenerationEvent;
use serde::Serialize;
use utoipa::ToSchema;

use super::chat::ChatForm;
use super::completion_reply::error_event;
use super::error::ApiError;
use super::generate_error::FieldNames;
use super::generation_fields::Streamed;
use super::generation_usage::GenerationUsage;
use super::logprobs::{ChatLogprobs, PromptLogprobs};
use super::reply_head::{ReplyHead, StopReason, reasons};
use super::streamed_usage::StreamedUsage;
use crate::event_stream::{EventWriter, data};
use crate::generation_replies::{Arrival, Progress, PromptError, PromptFacts, WholeReply};

/// The body of a whole reply.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatResponse {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChatChoice>,
    usage: GenerationUsage,
    system_fingerprint: String,
    /// With `prompt_logprobs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
    /// With `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    /// Why the base model answered in place of the adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback_reason: Option<String>,
}

/// A copy of the reply.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    index: usize,
    message: ChatMessage,
    #[schema(required)]
    logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`.
    #[schema(required)]
    finish_reason: Option<&'static str>,
    /// The token id or the text of the request that ended it.
    #[schema(required)]
    stop_reason: Option<StopReason>,
    /// With `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

/// A message of the reply.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatMessage {
    role: String,
    content: String,
    /// Always `null`.
    #[schema(required)]
    refusal: Option<String>,
}

/// A piece of a streamed reply.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChunk {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    /// One, or none in the piece that has the usage.
    choices: Vec<ChatChunkChoice>,
    /// With `stream_options.include_usage`; `null` in pieces that do not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<GenerationUsage>)]
    usage: Option<Option<GenerationUsage>>,
    system_fingerprint: String,
    /// With `return_token_ids`, in the first piece of each copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

/// A piece of a copy.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ChatChunkChoice {
    index: usize,
    delta: ChatDelta,
    #[schema(required)]
    logprobs: Option<ChatLogprobs>,
    /// `null` in pieces that are not the last.
    #[schema(required)]
    finish_reason: Option<&'static str>,
    /// The token id or the text of the request that ended it.
    #[schema(required)]
    stop_reason: Option<StopReason>,
    /// With `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

/// What a piece adds to the message.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ChatDelta {
    /// In the first piece of each copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    content: String,
}

impl ChatForm {
    /// What is told of a piece; all of a whole copy is one.
    fn piece(&self, piece: GenerationEvent) -> ChatChunkChoice {
        let GenerationEvent { index, text, tokens, finish } = piece;
        let (finish_reason, stop_reason) = reasons(finish);
        ChatChunkChoice {
            index,
            delta: ChatDelta { role: None, content: text },
            logprobs: self.logprobs.map(|names| ChatLogprobs::of(&tokens, names)),
            finish_reason,
            stop_reason,
            token_ids: self.token_ids.then(|| tokens.iter().map(|token| token.id).collect()),
        }
    }
}

impl ChatResponse {
    /// The whole reply.
    pub fn new(head: ReplyHead, form: &ChatForm, reply: WholeReply) -> Self {
        let WholeReply { facts, copies } = reply;
        let mut usage = StreamedUsage::default();
        usage.started(0, &facts);
        let mut choices = Vec::with_capacity(copies.len());
        for copy in copies {
            usage.generated(0, copy.index, copy.tokens.len());
            let ChatChunkChoice { index, delta, logprobs, finish_reason, stop_reason, token_ids } =
                form.piece(copy);
            let content = format!("{}{}", form.said, delta.content);
            let message = ChatMessage { role: form.role.clone(), content, refusal: None };
            choices.push(ChatChoice { index, message, logprobs, finish_reason, stop_reason, token_ids });
        }
        Self {
            id: head.id,
            object: "chat.completion",
            created: head.created,
            model: head.model,
            choices,
            usage: usage.total(),
            system_fingerprint: head.fingerprint,
            prompt_logprobs: facts
                .logprobs
                .as_deref()
                .filter(|_| form.prompt_logprobs)
                .map(PromptLogprobs::of),
            prompt_token_ids: form.token_ids.then(|| facts.tokens.to_vec()),
            fallback_reason: facts.fallback_reason,
        }
    }

    /// What it took.
    pub fn usage(&self) -> GenerationUsage {
        self.usage
    }
}

/// Writes a reply piece by piece.
#[derive(Debug)]
pub(crate) struct ChatWriter {
    head: ReplyHead,
    form: ChatForm,
    streamed: Streamed,
    names: FieldNames,
    usage: StreamedUsage,
}

impl ChatWriter {
    /// Tells `form` of the reply and `streamed` beside it; errors are about `names`.
    pub(crate) fn new(head: ReplyHead, form: ChatForm, streamed: Streamed, names: FieldNames) -> Self {
        Self { head, form, streamed, names, usage: StreamedUsage::default() }
    }

    /// The head of each copy: who speaks, and what he has said.
    fn heads(&self, facts: &PromptFacts) -> String {
        let head = |index: usize| {
            let delta = ChatDelta { role: Some(self.form.role.clone()), content: self.form.said.clone() };
            let choice = ChatChunkChoice { index, delta, ..ChatChunkChoice::default() };
            let prompt_token_ids = self.form.token_ids.then(|| facts.tokens.to_vec());
            let chunk = self.chunk(vec![choice], self.usage_so_far(index));
            data(&ChatChunk { prompt_token_ids, ..chunk })
        };
        (0..self.form.copies).map(head).collect()
    }

    fn usage_so_far(&self, copy: usize) -> Option<GenerationUsage> {
        self.streamed.usage_so_far.then(|| self.usage.of_copy(0, copy))
    }

    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<GenerationUsage>) -> ChatChunk {
        ChatChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk",
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage: self.streamed.usage.then_some(usage),
            system_fingerprint: self.head.fingerprint.clone(),
            prompt_token_ids: None,
        }
    }
}

impl EventWriter for ChatWriter {
    fn arrived(&mut self, Arrival { progress, .. }: Arrival) -> String {
        let piece = match progress {
            Progress::Started(facts) => {
                self.usage.started(0, &facts);
                return self.heads(&facts);
            }
            Progress::Piece(piece) => piece,
        };
        let index = piece.index;
        self.usage.generated(0, index, piece.tokens.len());
        data(&self.chunk(vec![self.form.piece(piece)], self.usage_so_far(index)))
    }

    fn ended(&mut self) -> String {
        let usage = self.streamed.usage.then(|| data(&self.chunk(Vec::new(), Some(self.usage.total()))));
        format!("{}data: [DONE]\n\n", usage.unwrap_or_default())
    }

    fn failed(&self, PromptError { prompt, error }: &PromptError) -> String {
        error_event(&ApiError::generating(error, *prompt, &self.names))
    }

    fn usage(&self) -> GenerationUsage {
        self.usage.total()
    }
}
