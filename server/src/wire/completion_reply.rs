//! The reply of `POST /v1/completions`, whole and in pieces.

use std::collections::BTreeSet;

use polylora_engine::{Finish, GenerationEvent};
use serde::Serialize;
use utoipa::ToSchema;

use super::completions::CompletionForm;
use super::error::ApiError;
use super::generate_error::FieldNames;
use super::generation_fields::{Streamed, invalid};
use super::generation_usage::GenerationUsage;
use super::logprobs::{CompletionLogprobs, PromptLogprobs};
use super::reply_head::{ReplyHead, StopReason, reasons};
use super::streamed_usage::StreamedUsage;
use crate::event_stream::{EventWriter, data};
use crate::generation_replies::{Arrival, Progress, PromptError, PromptFacts, WholeReply};

const OBJECT: &str = "text_completion";
/// Log-probabilities of prompts that a whole reply tells, those of tokens in their place counted, where copies repeat them.
const MOST_PROMPT_SCORES: usize = 1 << 20;

/// The body of a whole reply.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionResponse {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    /// Choice `i` is copy `i % n` of prompt `i / n`.
    choices: Vec<CompletionChoice>,
    usage: GenerationUsage,
    system_fingerprint: String,
    /// Why the base model answered in place of the adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback_reason: Option<String>,
}

/// A piece of a streamed reply.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionChunk {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    /// One, or none in the piece that has the usage.
    choices: Vec<CompletionChoice>,
    /// With `stream_options.include_usage`; `null` in pieces that do not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<GenerationUsage>)]
    usage: Option<Option<GenerationUsage>>,
    system_fingerprint: String,
}

/// A copy of a prompt, or a piece of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionChoice {
    index: usize,
    text: String,
    #[schema(required)]
    logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; `null` in pieces that are not the last.
    #[schema(required)]
    finish_reason: Option<&'static str>,
    /// The token id or the text of the request that ended it.
    #[schema(required)]
    stop_reason: Option<StopReason>,
    /// With `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    /// With `return_token_ids`, in the first piece of each copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    /// With `prompt_logprobs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
}

impl CompletionForm {
    /// What is told of a piece; what is told once is in the first.
    fn choice(
        &self,
        prompt: usize,
        facts: &PromptFacts,
        piece: GenerationEvent,
        first: bool,
    ) -> CompletionChoice {
        let GenerationEvent { index, mut text, mut tokens, mut finish } = piece;
        if self.only_prompt {
            text.clear();
            tokens.clear();
            finish = finish.map(|_| Finish::Length);
        }
        let before = facts.text.as_deref().filter(|_| self.echo).unwrap_or_default();
        let logprobs = self.logprobs.map(|names| {
            let mut logprobs = CompletionLogprobs::default();
            if let (true, true, Some(of_prompt)) = (self.echo, first, &facts.logprobs) {
                logprobs.extend(of_prompt, 0, names);
            }
            logprobs.extend(&tokens, before.chars().count(), names);
            logprobs
        });
        let (finish_reason, stop_reason) = reasons(finish);
        CompletionChoice {
            index: prompt * self.copies + index,
            text: if first { format!("{before}{text}") } else { text },
            logprobs,
            finish_reason,
            stop_reason,
            token_ids: self.token_ids.then(|| tokens.iter().map(|token| token.id).collect()),
            prompt_token_ids: (self.token_ids && first).then(|| facts.tokens.to_vec()),
            prompt_logprobs: facts
                .logprobs
                .as_deref()
                .filter(|_| self.prompt_logprobs && first)
                .map(PromptLogprobs::of),
        }
    }

    /// Refuses a reply that would repeat more log-probabilities of prompts than [`MOST_PROMPT_SCORES`].
    fn check_scores(&self, replies: &[WholeReply]) -> Result<(), ApiError> {
        // One copy of what was computed is always told.
        if self.copies == 1 {
            return Ok(());
        }
        let each = usize::from(self.prompt_logprobs) + usize::from(self.echo && self.logprobs.is_some());
        let of = |reply: &WholeReply| -> usize {
            reply.facts.logprobs.iter().flatten().map(|token| token.top.len() + 1).sum()
        };
        let scores: usize = replies.iter().map(of).sum();
        let found = scores.saturating_mul(each).saturating_mul(self.copies);
        if found <= MOST_PROMPT_SCORES {
            return Ok(());
        }
        let message = format!(
            "each of {} copies would repeat the log-probabilities of the prompt, {found} in all, at most \
             {MOST_PROMPT_SCORES} are told: ask for fewer copies, or for the prompt's by itself",
            self.copies
        );
        Err(invalid("n", message))
    }

    /// Tokens of a piece that are told.
    fn counted(&self, piece: &GenerationEvent) -> usize {
        if self.only_prompt { 0 } else { piece.tokens.len() }
    }
}

impl CompletionResponse {
    /// The whole reply to all prompts.
    ///
    /// # Errors
    /// 400 where each of many copies would repeat the log-probabilities of a long prompt.
    pub fn new(head: ReplyHead, form: CompletionForm, replies: Vec<WholeReply>) -> Result<Self, ApiError> {
        form.check_scores(&replies)?;
        let mut usage = StreamedUsage::default();
        let fallback_reason = replies.iter().find_map(|reply| reply.facts.fallback_reason.clone());
        let mut choices = Vec::new();
        for (prompt, WholeReply { facts, copies }) in replies.into_iter().enumerate() {
            usage.started(prompt, &facts);
            for copy in copies {
                usage.generated(prompt, copy.index, form.counted(&copy));
                choices.push(form.choice(prompt, &facts, copy, true));
            }
        }
        Ok(Self {
            id: head.id,
            object: OBJECT,
            created: head.created,
            model: head.model,
            choices,
            usage: usage.total(),
            system_fingerprint: head.fingerprint,
            fallback_reason,
        })
    }

    /// What it took.
    pub fn usage(&self) -> GenerationUsage {
        self.usage
    }
}

/// Writes a reply piece by piece.
#[derive(Debug)]
pub(crate) struct CompletionWriter {
    head: ReplyHead,
    form: CompletionForm,
    streamed: Streamed,
    names: FieldNames,
    usage: StreamedUsage,
    prompts: Vec<PromptFacts>,
    /// The choices that have been told of.
    begun: BTreeSet<usize>,
}

impl CompletionWriter {
    /// Tells `form` of each prompt and `streamed` beside it; errors are about `names`.
    pub fn new(head: ReplyHead, form: CompletionForm, streamed: Streamed, names: FieldNames) -> Self {
        let usage = StreamedUsage::default();
        Self { head, form, streamed, names, usage, prompts: Vec::new(), begun: BTreeSet::new() }
    }

    fn chunk(&self, choices: Vec<CompletionChoice>, usage: Option<GenerationUsage>) -> String {
        data(&CompletionChunk {
            id: self.head.id.clone(),
            object: OBJECT,
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage: self.streamed.usage.then_some(usage),
            system_fingerprint: self.head.fingerprint.clone(),
        })
    }
}

impl EventWriter for CompletionWriter {
    fn arrived(&mut self, Arrival { prompt, progress }: Arrival) -> String {
        let piece = match progress {
            Progress::Started(facts) => {
                self.usage.started(prompt, &facts);
                if self.prompts.len() <= prompt {
                    self.prompts.resize_with(prompt + 1, PromptFacts::default);
                }
                self.prompts[prompt] = facts;
                return String::new();
            }
            Progress::Piece(piece) => piece,
        };
        let index = piece.index;
        self.usage.generated(prompt, index, self.form.counted(&piece));
        let first = self.begun.insert(prompt * self.form.copies + index);
        let choice = self.form.choice(prompt, &self.prompts[prompt], piece, first);
        let usage = self.streamed.usage_so_far.then(|| self.usage.of_copy(prompt, index));
        self.chunk(vec![choice], usage)
    }

    fn ended(&mut self) -> String {
        let usage = self.streamed.usage.then(|| self.chunk(Vec::new(), Some(self.usage.total())));
        format!("{}data: [DONE]\n\n", usage.unwrap_or_default())
    }

    fn failed(&self, PromptError { prompt, error }: &PromptError) -> String {
        error_event(&ApiError::generating(error, *prompt, &self.names))
    }

    fn usage(&self) -> GenerationUsage {
        self.usage.total()
    }
}

/// The event of an error that came when the reply had begun.
pub(super) fn error_event(error: &ApiError) -> String {
    format!("data: {}\n\n", error.to_json())
}
