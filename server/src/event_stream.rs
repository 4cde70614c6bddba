//! A reply as server-sent events: a piece as soon as it is there, a sign of life while there is none.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use polylora_engine::{Blame, GenerateError};
use serde::Serialize;
use tracing::Span;

use crate::generation_replies::{Arrival, PromptError, Replies};
use crate::request_trace::{Stages, milliseconds, record_count, record_failure, record_stages};
use crate::shutdown::{CutOff, CutOffWatch};
use crate::wire::generation_usage::GenerationUsage;

/// How long nothing may be sent: proxies end connections that are silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A comment, which clients skip.
const SIGN_OF_LIFE: &str = ": still at it\n\n";
/// What keeps nginx from collecting a reply before it passes it on.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// An event that carries JSON.
pub(crate) fn data(value: &impl Serialize) -> String {
    // Texts and numbers alone are always written.
    format!("data: {}\n\n", serde_json::to_string(value).unwrap_or_default())
}

/// Writes what arrives as events of a dialect.
pub(crate) trait EventWriter: Send {
    /// The events of an arrival; none where there is nothing to tell yet.
    fn arrived(&mut self, arrival: Arrival) -> String;
    /// The events after the last arrival.
    fn ended(&mut self) -> String;
    /// The event of an error, after which nothing comes.
    fn failed(&self, error: &PromptError) -> String;
    /// Tokens so far.
    fn usage(&self) -> GenerationUsage;
}

/// What a reply begins with.
pub(crate) struct StreamParts {
    /// What is to come.
    pub(crate) replies: Replies,
    /// What came before the head of the reply was sent.
    pub(crate) first: Option<Arrival>,
    /// The dialect.
    pub(crate) writer: Box<dyn EventWriter>,
    /// What ends it when the server stops.
    pub(crate) cut_off: CutOff,
    /// The request's id, for the log.
    pub(crate) request: String,
    /// The model's name, for the log.
    pub(crate) model: String,
    /// When the first token came, for the trace.
    pub(crate) started: Option<Instant>,
    /// Tokens of the prompts that were computed by then.
    pub(crate) prompt_tokens: usize,
}

/// A reply that is streamed. Dropping it aborts what is not done.
struct EventStream {
    /// Gone when nothing more is to come.
    replies: Option<Replies>,
    first: Option<Arrival>,
    writer: Box<dyn EventWriter>,
    over: CutOffWatch,
    line: StreamLine,
}

/// The response whose body is the stream.
pub(crate) fn streamed(parts: StreamParts) -> Response {
    let StreamParts { replies, first, writer, cut_off, request, model, started, prompt_tokens } = parts;
    let line = StreamLine {
        request,
        model,
        span: Span::current(),
        started: started.unwrap_or_else(Instant::now),
        usage: GenerationUsage::new(prompt_tokens, 0, 0),
        outcome: "client_closed",
    };
    let stream = EventStream { replies: Some(replies), first, writer, over: cut_off.watch(), line };
    let events = unfold(stream, |mut stream| async move {
        let text = stream.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), stream))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(events)).into_response()
}

impl EventStream {
    /// The next events, never an empty text.
    async fn next(&mut self) -> Option<String> {
        loop {
            let text = match self.first.take() {
                Some(arrival) => self.writer.arrived(arrival),
                None => self.await_next().await?,
            };
            self.line.usage = self.writer.usage();
            if !text.is_empty() {
                return Some(text);
            }
        }
    }

    async fn await_next(&mut self) -> Option<String> {
        let replies = self.replies.as_mut()?;
        let arrival = tokio::select! {
            // A stream that always has something to say ends as well.
            biased;
            () = self.over.over() => Some(Err(PromptError { prompt: 0, error: GenerateError::ShuttingDown })),
            arrival = tokio::time::timeout(KEEP_ALIVE, replies.next()) => match arrival {
                Ok(arrival) => arrival,
                Err(_) => return Some(SIGN_OF_LIFE.to_owned()),
            },
        };
        match arrival {
            Some(Ok(arrival)) => Some(self.writer.arrived(arrival)),
            Some(Err(error)) => {
                self.replies = None;
                self.line.outcome = error.error.code();
                if error.error.blame() != Blame::Client {
                    record_failure(&self.line.span);
                }
                Some(self.writer.failed(&error))
            }
            None => {
                self.replies = None;
                self.line.outcome = "ended";
                Some(self.writer.ended())
            }
        }
    }
}

/// The log line of a stream's end; the request's own line was written when the stream began, and its span ends with it. Never
/// a text.
struct StreamLine {
    request: String,
    model: String,
    span: Span,
    started: Instant,
    usage: GenerationUsage,
    outcome: &'static str,
}

impl Drop for StreamLine {
    fn drop(&mut self) {
        let usage = &self.usage;
        // What is exported ends where the span is left for the last time.
        let _within = self.span.enter();
        let decode = Stages { decode: Some(self.started.elapsed()), ..Stages::default() };
        record_stages(&self.span, &decode, Instant::now());
        record_count(&self.span, "tokens", usage.total_tokens);
        tracing::info!(
            request_id = %self.request,
            model = %self.model,
            outcome = self.outcome,
            prompt_tokens = usage.prompt_tokens,
            tokens = usage.completion_tokens,
            streamed_ms = milliseconds(self.started.elapsed()),
            "stream"
        );
    }
}
