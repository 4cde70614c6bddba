//! What a generation engine gives back, piece by piece.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::{GenerateError, ServedBy};

/// A prompt that has been computed, and its copies as they come. Dropping it aborts the request within a step.
#[derive(Debug)]
pub struct GenerationStream {
    /// The tokens of the prompt.
    pub prompt_tokens: Arc<[u32]>,
    /// The text of the prompt, special tokens included; only with `echo`.
    pub prompt_text: Option<String>,
    /// Its first tokens that were not computed because a cache had them.
    pub cached_tokens: usize,
    /// The tokens of the prompt with their log-probabilities, where they were asked for; the first token has none, and
    /// `text_offset` counts from the prompt's beginning.
    pub prompt_logprobs: Option<Vec<GeneratedToken>>,
    /// Where the time until its first token went.
    pub timings: StartTimings,
    /// When that came.
    pub started: Instant,
    /// The adapter's version that answers; `None` for the base model.
    pub served_by: Option<ServedBy>,
    /// Why the base model answers in place of the adapter.
    pub fallback_reason: Option<String>,
    /// What is generated. An error is the last item and ends all copies; without one, each copy has one event with
    /// `finish`, its last.
    pub events: mpsc::Receiver<Result<GenerationEvent, GenerateError>>,
}

/// Where the time until a request's first token went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartTimings {
    /// Reading the prompt and finding its adapter, with what that waited for.
    pub tokenize: Duration,
    /// From there to its first step.
    pub queue: Duration,
    /// Computing the prompt; step mates, preemptions and, where an embedding model shares the device, its turns included.
    pub prefill: Duration,
}

/// A piece of a copy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationEvent {
    /// Which copy, from 0.
    pub index: usize,
    /// Text that was not there before: whole characters, nothing that may still become a stop text. The texts of all
    /// events, one after the other, are the copy's text.
    pub text: String,
    /// The tokens since the last event, the one that ends the copy included. Their texts may be ahead of `text`.
    pub tokens: Vec<GeneratedToken>,
    /// Why the copy ends with this event.
    pub finish: Option<Finish>,
}

/// A token of an output or of a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GeneratedToken {
    /// Its id.
    pub id: u32,
    /// The text that it stands for; U+FFFD where it is a part of a character.
    pub text: String,
    /// Whether it is one of the tokenizer's special tokens, the end of the text among them.
    pub is_special: bool,
    /// Natural logarithm of its probability before temperature and penalties, where that was asked for.
    pub logprob: Option<f32>,
    /// How many tokens are as likely or likelier, itself included; with `logprob`.
    pub rank: Option<usize>,
    /// The likeliest tokens in its place, the likeliest first.
    pub top: Vec<TopToken>,
    /// Characters of the copy's text before it.
    pub text_offset: usize,
}

/// A token that could have been drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct TopToken {
    /// Its id.
    pub id: u32,
    /// The text that it stands for.
    pub text: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Why a copy ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It came to an end; `by` is `None` for the model's own end of text.
    Stop {
        /// What the request named.
        by: Option<StopMatch>,
    },
    /// It has as many tokens as it may.
    Length,
}

/// What of the request ended a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopMatch {
    /// A token id.
    Token(u32),
    /// A text.
    Text(String),
}
