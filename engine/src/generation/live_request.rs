//! A request on the owner thread: its copies' samplers and texts, and the way back to whoever waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use polylora_adapters::LoadedAdapter;
use polylora_generation::{
    DrawScratch, Drawn, FinishReason, LogitsError, NewSequence, SequenceId, SequenceSampler, SequenceText,
    StopMatch as Match, TokenText,
};
use tokio::sync::{mpsc, oneshot};

use super::outcome_report::OutcomeReport;
use super::phases::{PhaseTimes, Phases, TokenWait};
use super::presence::Presence;
use super::prompt_scores::PromptScores;
use super::speech::Speech;
use super::told_token::told_token;
use crate::admission::Permits;
use crate::{Finish, GenerateError, GenerationEvent, StopMatch};

/// A request as the engine's front hands it to the owner thread.
pub(crate) struct GenerationJob {
    /// What the scheduler is told; its ids are given on the owner thread.
    pub(crate) sequence: NewSequence,
    /// The adapter, which the request holds until it ends.
    pub(crate) adapter: Option<LoadedAdapter>,
    /// What its copies begin with.
    pub(crate) speech: Speech,
    /// When the prompt was ready.
    pub(crate) submitted: Instant,
    /// Where it is told that the prompt has been computed.
    pub(crate) started: oneshot::Sender<Result<Started, GenerateError>>,
    /// Where what is generated goes. Holds an event for each token: sending never waits.
    pub(crate) events: mpsc::Sender<Result<GenerationEvent, GenerateError>>,
    /// Given back when the request ends, and all others that came with it.
    pub(crate) permits: Arc<Permits>,
    /// Counts it until it ends.
    pub(crate) presence: Presence,
    /// Tells how its adapter's version fared.
    pub(crate) report: Option<OutcomeReport>,
}

/// What is known once a prompt has been computed.
#[derive(Debug)]
pub(crate) struct Started {
    /// Tokens of the prompt that a cache had.
    pub(crate) cached_tokens: usize,
    /// Its tokens' log-probabilities, where they were asked for.
    pub(crate) prompt_scores: Option<PromptScores>,
    /// How long it waited and was computed.
    pub(crate) times: PhaseTimes,
    /// When that was over.
    pub(crate) at: Instant,
}

/// A request whose sequences the scheduler has.
pub(crate) struct LiveRequest {
    copies: Vec<Copy>,
    /// Copies whose end was not told.
    ends_left: usize,
    adapter: Option<LoadedAdapter>,
    phases: Phases,
    started: Option<oneshot::Sender<Result<Started, GenerateError>>>,
    events: mpsc::Sender<Result<GenerationEvent, GenerateError>>,
    wants_logprobs: bool,
    prompt_tokens: usize,
    prompt_scores: Option<PromptScores>,
    permits: Arc<Permits>,
    presence: Presence,
    report: Option<OutcomeReport>,
}

struct Copy {
    sampler: SequenceSampler,
    text: SequenceText,
    is_over: bool,
}

/// What a drawn token came to.
pub(crate) struct TokenOutcome {
    /// What is to be told; with `finish` if the copy ends with it.
    pub(crate) event: GenerationEvent,
    /// How long the request waited for it.
    pub(crate) wait: TokenWait,
}

impl GenerationJob {
    /// Ends it with an error before it has begun.
    pub(crate) fn fail(self, error: GenerateError) {
        let Self { permits, started, report, .. } = self;
        drop(permits);
        if let Some(report) = report {
            report.failed(&error);
        }
        let _ = started.send(Err(error));
    }
}

impl LiveRequest {
    /// A request whose sequences begin at `job.sequence.id`; gives back what the scheduler is to be told.
    pub(crate) fn new(job: GenerationJob) -> (Self, NewSequence) {
        let GenerationJob {
            sequence,
            adapter,
            speech,
            submitted,
            started,
            events,
            permits,
            presence,
            report,
        } = job;
        let Speech { sampler, text, wants_logprobs, prompt_logprobs } = speech;
        let copy = |index: usize| Copy {
            sampler: sampler.sibling(index as u64),
            text: text.clone(),
            is_over: false,
        };
        let copies = (0..sequence.copies.get()).map(copy).collect();
        let request = Self {
            ends_left: sequence.copies.get(),
            copies,
            adapter,
            phases: Phases::new(submitted),
            started: Some(started),
            events,
            wants_logprobs,
            prompt_tokens: sequence.prompt.len(),
            prompt_scores: prompt_logprobs.map(|top| PromptScores::new(sequence.prompt.len(), top)),
            permits,
            presence,
            report,
        };
        (request, sequence)
    }

    /// The ids of its sequences, for a request whose first one is `first`.
    pub(crate) fn sequences(&self, first: SequenceId) -> impl Iterator<Item = SequenceId> + use<> {
        (0..self.copies.len()).map(move |index| first.sibling(index))
    }

    /// Copies that have not ended.
    pub(crate) fn open_copies(&self) -> usize {
        self.copies.iter().filter(|copy| !copy.is_over).count()
    }

    /// Its adapter.
    pub(crate) fn adapter(&self) -> Option<&LoadedAdapter> {
        self.adapter.as_ref()
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.events.is_closed() || self.started.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    /// Takes note that a copy's end is told; says whether it is the last. Copies may end in one step and are told of one
    /// after the other.
    pub(crate) fn is_last_end(&mut self) -> bool {
        self.ends_left = self.ends_left.saturating_sub(1);
        self.ends_left == 0
    }

    /// Its first step begins; says how long it waited for it.
    pub(crate) fn begins(&mut self) -> Duration {
        self.presence.begins();
        self.phases.begin(Instant::now())
    }

    /// Its phases so far.
    pub(crate) fn phases(&self) -> &Phases {
        &self.phases
    }

    /// Tokens of the prompt, and those drawn so far.
    pub(crate) fn tokens(&self) -> (usize, usize) {
        (self.prompt_tokens, self.copies.iter().map(|copy| copy.text.tokens()).sum())
    }

    /// Whether its prompt has been computed.
    pub(crate) fn has_started(&self) -> bool {
        self.started.is_none()
    }

    /// The prompt has been computed, so many of its tokens by others before, and a token was drawn for each copy.
    pub(crate) fn start(&mut self, cached_tokens: usize) {
        if let Some(started) = self.started.take() {
            let prompt_scores = self.prompt_scores.take();
            // Who has left is noticed before the next step, and had no answer.
            let (times, at) = (self.phases.times(), self.phases.first_token());
            if started.send(Ok(Started { cached_tokens, prompt_scores, times, at })).is_ok() {
                self.report.iter_mut().for_each(OutcomeReport::started);
            }
        }
    }

    /// Judges the token at `position` of the prompt by the logits before it, `[vocabulary]`.
    ///
    /// # Errors
    /// When they give no distribution.
    pub(crate) fn judge(
        &mut self,
        (position, token): (usize, u32),
        logits: &[f32],
        scratch: &mut DrawScratch,
    ) -> Result<(), LogitsError> {
        match &mut self.prompt_scores {
            Some(scores) => scores.judge(position, token, logits, scratch),
            None => Ok(()),
        }
    }

    /// Draws the next token of copy `index` from `logits`, `[vocabulary]`.
    ///
    /// # Errors
    /// When they give no distribution.
    pub(crate) fn draw(
        &mut self,
        index: usize,
        logits: &mut [f32],
        scratch: &mut DrawScratch,
    ) -> Result<Drawn, LogitsError> {
        self.copies[index].sampler.draw(logits, scratch)
    }

    /// Makes text of a drawn token.
    pub(crate) fn push(
        &mut self,
        index: usize,
        drawn: Drawn,
        door: &dyn TokenText,
        now: Instant,
    ) -> TokenOutcome {
        let copy = &mut self.copies[index];
        let pushed = copy.text.push(drawn.token, door);
        let finish = pushed.finish.map(finish_of);
        copy.is_over = finish.is_some();
        let logprobs = drawn.logprobs.filter(|_| self.wants_logprobs);
        let tokens = vec![told_token(door, drawn.token, pushed.text_offset, logprobs)];
        let event = GenerationEvent { index, text: pushed.text_delta, tokens, finish };
        TokenOutcome { event, wait: self.phases.draw(now) }
    }

    /// Ends a copy that goes no further although its tokens do not say so, and gives the text that was waiting; `None` when
    /// it has ended already.
    pub(crate) fn close(&mut self, index: usize, door: &dyn TokenText) -> Option<GenerationEvent> {
        let copy = &mut self.copies[index];
        if copy.is_over {
            return None;
        }
        copy.is_over = true;
        let text = copy.text.close(door);
        Some(GenerationEvent { index, text, tokens: vec![], finish: Some(Finish::Length) })
    }

    /// Sends an event after which the request goes on.
    pub(crate) fn tell(&self, event: GenerationEvent) {
        // There is room for every token, and an event more for each copy. Who has left is noticed before the next step.
        let _ = self.events.try_send(Ok(event));
    }

    /// Sends the last event. The permits come back first: whoever has it may ask again.
    pub(crate) fn conclude(self, event: GenerationEvent) {
        let Self { permits, events, report, .. } = self;
        drop((permits, report));
        let _ = events.try_send(Ok(event));
    }

    /// Ends the request with an error, the permits first.
    pub(crate) fn fail(self, error: GenerateError) {
        let Self { permits, events, started, report, .. } = self;
        drop(permits);
        if let Some(report) = report {
            report.failed(&error);
        }
        match started {
            Some(started) => {
                let _ = started.send(Err(error));
            }
            None => {
                let _ = events.try_send(Err(error));
            }
        }
    }
}

/// Events of a request for `copies` sequences of at most `max_tokens` tokens: one a token, one for what ends each copy
/// without one, and an error.
pub(crate) fn most_events(copies: usize, max_tokens: usize) -> usize {
    copies
        .saturating_mul(max_tokens.saturating_add(1))
        .saturating_add(1)
        .min(tokio::sync::Semaphore::MAX_PERMITS)
}

fn finish_of(reason: FinishReason) -> Finish {
    match reason {
        FinishReason::Stop(Match::EndOfSequence(_)) => Finish::Stop { by: None },
        FinishReason::Stop(Match::Token(id)) => Finish::Stop { by: Some(StopMatch::Token(id)) },
        FinishReason::Stop(Match::Text(text)) => Finish::Stop { by: Some(StopMatch::Text(text)) },
        // Nobody hears of an abort.
        FinishReason::Length | FinishReason::Abort => Finish::Length,
    }
}
