//! When a request waited, had its prompt computed, and drew tokens.

use std::time::{Duration, Instant};

use crate::StartTimings;

/// The instants at which a request's phases began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phases {
    submitted: Instant,
    /// Its first step.
    prefill: Option<Instant>,
    /// Its first token.
    decode: Option<Instant>,
    last_token: Instant,
}

/// A token's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenWait {
    /// Whether it is the request's first.
    pub(crate) is_first: bool,
    /// Since the request's token before, or since it was submitted for its first.
    pub(crate) waited: Duration,
}

/// How long the phases of a request that drew its tokens took, as vLLM divides them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PhaseTimes {
    /// From submitted to its first step.
    pub(crate) queue: Duration,
    /// To its first token.
    pub(crate) prefill: Duration,
    /// To its last one.
    pub(crate) decode: Duration,
}

impl Phases {
    /// Of a request whose prompt was ready at `submitted`.
    pub(crate) fn new(submitted: Instant) -> Self {
        Self { submitted, prefill: None, decode: None, last_token: submitted }
    }

    /// Its first step begins; says how long it waited for it.
    pub(crate) fn begin(&mut self, now: Instant) -> Duration {
        let began = *self.prefill.get_or_insert(now);
        began.saturating_duration_since(self.submitted)
    }

    /// A token of any copy was drawn.
    pub(crate) fn draw(&mut self, now: Instant) -> TokenWait {
        let is_first = self.decode.is_none();
        self.decode.get_or_insert(now);
        let before = std::mem::replace(&mut self.last_token, now);
        TokenWait { is_first, waited: now.saturating_duration_since(before) }
    }

    /// Since it was submitted.
    pub(crate) fn elapsed(&self) -> Duration {
        self.submitted.elapsed()
    }

    /// When its first token came, or else what came last.
    pub(crate) fn first_token(&self) -> Instant {
        self.decode.unwrap_or(self.last_token)
    }

    /// How long they took so far; those that have not begun took nothing.
    pub(crate) fn times(&self) -> PhaseTimes {
        let first = self.first_token();
        let began = self.prefill.unwrap_or(first);
        PhaseTimes {
            queue: began.saturating_duration_since(self.submitted),
            prefill: first.saturating_duration_since(began),
            decode: self.last_token.saturating_duration_since(first),
        }
    }
}

impl PhaseTimes {
    /// With the time that its prompt took to be read and its adapter to be found, what a client is told.
    pub(crate) fn until_start(self, tokenize: Duration) -> StartTimings {
        StartTimings { tokenize, queue: self.queue, prefill: self.prefill }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_one_another_without_a_gap() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut phases = Phases::new(start);
        assert_eq!(phases.times().queue, Duration::ZERO);
        assert_eq!(phases.begin(at(5)), Duration::from_millis(5));
        assert_eq!(phases.begin(at(9)), Duration::from_millis(5));
        let waits = [20, 21, 30].map(|ms| phases.draw(at(ms)));
        assert_eq!(waits.map(|wait| wait.waited.as_millis()), [20, 1, 9]);
        assert_eq!(waits.map(|wait| wait.is_first), [true, false, false]);
        let PhaseTimes { queue, prefill, decode } = phases.times();
        assert_eq!([queue, prefill, decode].map(|time| time.as_millis()), [5, 15, 10]);
    }
}
