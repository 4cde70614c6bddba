//! The replies to the prompts of one request, as they come from the engine.

use std::collections::VecDeque;
use std::future::{poll_fn, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use polylora_engine::{
    GenerateError, GenerateRequest, GeneratedToken, GenerationEvent, GenerationService, ServedBy,
    StartTimings, StartingGeneration,
};
use tokio::sync::mpsc;

/// What is known of a prompt once it has been computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptFacts {
    /// Its tokens.
    pub tokens: Arc<[u32]>,
    /// Its text, where it is repeated.
    pub text: Option<String>,
    /// Its first tokens that a cache had.
    pub cached_tokens: usize,
    /// Its tokens' log-probabilities, where they were asked for.
    pub logprobs: Option<Vec<GeneratedToken>>,
    /// Where the time until its first token went.
    pub timings: StartTimings,
    /// When that came.
    pub started: Option<Instant>,
    /// The adapter's version that answers.
    pub served_by: Option<ServedBy>,
    /// Why the base model answers in place of the adapter.
    pub fallback_reason: Option<String>,
}

/// Something new about a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// It has been computed: the first that is said of it.
    Started(PromptFacts),
    /// A piece of a copy.
    Piece(GenerationEvent),
}

/// Something new about prompt `prompt`.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// Which prompt, from 0.
    pub prompt: usize,
    /// What is new.
    pub progress: Progress,
}

/// The error of a prompt, which ends the whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptError {
    /// Which prompt, from 0.
    pub prompt: usize,
    /// What went wrong.
    pub error: GenerateError,
}

/// The whole reply to a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WholeReply {
    /// The prompt.
    pub facts: PromptFacts,
    /// Each copy as one piece, by index.
    pub copies: Vec<GenerationEvent>,
}

/// The prompts of a request on their way. Dropping it aborts those that are not done.
pub struct Replies {
    sources: Vec<Source>,
    /// Whose turn it is to be asked first: no prompt keeps the others from being told.
    turn: usize,
    /// What has come already; at most one thing a prompt.
    arrived: VecDeque<Arrival>,
}

enum Source {
    Starting { future: StartingGeneration, copies: usize },
    Running { events: mpsc::Receiver<Result<GenerationEvent, GenerateError>>, unfinished: usize },
    Done,
}

impl Replies {
    /// Asks for all of them at once, as one request. One that is not let in has that error for its first prompt.
    pub fn start(service: &Arc<dyn GenerationService>, requests: Vec<GenerateRequest>) -> Self {
        let copies: Vec<usize> = requests.iter().map(|request| request.copies).collect();
        let starting = service.generate_all(requests).unwrap_or_else(|error| {
            let refused: StartingGeneration = Box::pin(ready(Err(error)));
            vec![refused]
        });
        let source = |(future, copies)| Source::Starting { future, copies };
        let sources = starting.into_iter().zip(copies).map(source).collect();
        Self { sources, turn: 0, arrived: VecDeque::new() }
    }

    /// What comes first, or the error of any prompt that is known by then: a reply that has begun can give no status any more.
    pub async fn first(&mut self) -> Option<Result<Arrival, PromptError>> {
        let first = self.next().await?;
        if first.is_ok()
            && let Some(error) = poll_fn(|context| Poll::Ready(self.known_error(context))).await
        {
            return Some(Err(error));
        }
        Some(first)
    }

    /// What comes next; `None` when every copy has ended. After an error nothing is worth asking for. Nothing is lost when the
    /// future is dropped.
    pub async fn next(&mut self) -> Option<Result<Arrival, PromptError>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// All of it.
    ///
    /// # Errors
    /// The first error of a prompt.
    pub async fn whole(mut self) -> Result<Vec<WholeReply>, PromptError> {
        let mut replies: Vec<WholeReply> = Vec::new();
        replies.resize_with(self.sources.len(), WholeReply::default);
        while let Some(arrival) = self.next().await {
            let Arrival { prompt, progress } = arrival?;
            let reply = &mut replies[prompt];
            match progress {
                Progress::Started(facts) => reply.facts = facts,
                Progress::Piece(piece) => add(&mut reply.copies, piece),
            }
        }
        Ok(replies)
    }

    /// Asks each prompt that has not begun once.
    fn known_error(&mut self, context: &mut Context<'_>) -> Option<PromptError> {
        for (prompt, source) in self.sources.iter_mut().enumerate() {
            if !matches!(source, Source::Starting { .. }) {
                continue;
            }
            match source.poll(context) {
                Poll::Ready(Some(Ok(progress))) => self.arrived.push_back(Arrival { prompt, progress }),
                Poll::Ready(Some(Err(error))) => return Some(PromptError { prompt, error }),
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
        None
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Arrival, PromptError>>> {
        if let Some(arrival) = self.arrived.pop_front() {
            return Poll::Ready(Some(Ok(arrival)));
        }
        let count = self.sources.len();
        let mut all_done = true;
        for step in 0..count {
            let prompt = (self.turn + step) % count;
            match self.sources[prompt].poll(context) {
                Poll::Ready(None) => {}
                Poll::Ready(Some(progress)) => {
                    self.turn = (prompt + 1) % count;
                    let arrival = progress.map(|progress| Arrival { prompt, progress });
                    return Poll::Ready(Some(arrival.map_err(|error| PromptError { prompt, error })));
                }
                Poll::Pending => all_done = false,
            }
        }
        if all_done { Poll::Ready(None) } else { Poll::Pending }
    }
}

impl Source {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Progress, GenerateError>>> {
        let (next, told) = match self {
            Self::Done => return Poll::Ready(None),
            Self::Starting { future, copies } => match future.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => (Self::Done, Err(error)),
                Poll::Ready(Ok(stream)) => {
                    let (events, unfinished) = (stream.events, *copies);
                    let facts = PromptFacts {
                        tokens: stream.prompt_tokens,
                        text: stream.prompt_text,
                        cached_tokens: stream.cached_tokens,
                        logprobs: stream.prompt_logprobs,
                        timings: stream.timings,
                        started: Some(stream.started),
                        served_by: stream.served_by,
                        fallback_reason: stream.fallback_reason,
                    };
                    (Self::Running { events, unfinished }, Ok(Progress::Started(facts)))
                }
            },
            Self::Running { events, unfinished } => match events.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(piece))) => {
                    *unfinished = unfinished.saturating_sub(usize::from(piece.finish.is_some()));
                    if *unfinished > 0 {
                        return Poll::Ready(Some(Ok(Progress::Piece(piece))));
                    }
                    (Self::Done, Ok(Progress::Piece(piece)))
                }
                Poll::Ready(Some(Err(error))) => (Self::Done, Err(error)),
                Poll::Ready(None) => {
                    let reason = format!("{unfinished} copies of a prompt broke off without an end");
                    (Self::Done, Err(GenerateError::Internal { reason }))
                }
            },
        };
        *self = next;
        Poll::Ready(Some(told))
    }
}

/// Adds a piece to its copy.
fn add(copies: &mut Vec<GenerationEvent>, piece: GenerationEvent) {
    while copies.len() <= piece.index {
        copies.push(GenerationEvent { index: copies.len(), ..GenerationEvent::default() });
    }
    let copy = &mut copies[piece.index];
    copy.text.push_str(&piece.text);
    copy.tokens.extend(piece.tokens);
    copy.finish = piece.finish.or(copy.finish.take());
}
