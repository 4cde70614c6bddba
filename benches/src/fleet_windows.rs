//! What clients saw of replacements: who answered them, and how long it took while one was under way.

use std::time::{Duration, Instant};

use crate::Passes;

/// A reply to a client.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// Name, version and digest of who answered.
    pub(crate) by: String,
}

/// A content that took another one's place.
#[derive(Clone, Debug)]
pub(crate) struct Replacement {
    pub(crate) called: Instant,
    pub(crate) answered: Instant,
    /// Who answers from then on.
    pub(crate) tag: String,
}

/// A time with replacements, and one of the same length without.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    /// When the replacements began.
    pub(crate) loud: Instant,
    /// When the time without began.
    pub(crate) quiet: Instant,
    pub(crate) length: Duration,
    pub(crate) replacements: Vec<Replacement>,
}

/// What came of a round; times in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// From each call to its answer.
    pub(crate) call_ms: Vec<f64>,
    /// From each call to the first reply by the new version; without those that nobody saw.
    pub(crate) first_reply_ms: Vec<f64>,
    /// Requests that were in flight between a call and its answer.
    pub(crate) during: Vec<f64>,
    /// Requests that were in flight in the same windows of the time without.
    pub(crate) without: Vec<f64>,
    /// Requests that began after an answer and before the next call, and were answered by another version.
    pub(crate) old_after: usize,
}

impl Seen {
    /// The 99th percentile during over that without; not a number when either has no reply.
    pub(crate) fn ratio(&self) -> f64 {
        if self.during.is_empty() || self.without.is_empty() {
            return f64::NAN;
        }
        let p99 = |times: &[f64]| Passes::of(times.to_vec()).percentile(0.99);
        p99(&self.during) / p99(&self.without)
    }
}

impl Windows {
    /// Sorts out replies. A long request is more likely to be in flight in a window than a short one; since the time without
    /// is looked at through the same windows, that holds for both.
    pub(crate) fn seen(&self, answers: &[Answered]) -> Seen {
        let loud: Vec<_> = self.replacements.iter().map(|one| (one.called, one.answered)).collect();
        let over = self.quiet + self.length;
        let quiet =
            |(from, to): (Instant, Instant)| (self.quiet + (from - self.loud), self.quiet + (to - self.loud));
        let quiet: Vec<_> = loud.iter().copied().map(quiet).filter(|(_, to)| *to <= over).collect();
        let first = |one: &Replacement| {
            let by_new = answers.iter().filter(|answer| answer.by == one.tag && answer.ended >= one.called);
            Some(milliseconds(one.called, by_new.map(|answer| answer.ended).min()?))
        };
        Seen {
            call_ms: loud.iter().map(|(from, to)| milliseconds(*from, *to)).collect(),
            first_reply_ms: self.replacements.iter().filter_map(first).collect(),
            during: in_flight(answers, &loud),
            without: in_flight(answers, &quiet),
            old_after: self.old_after(answers),
        }
    }

    fn old_after(&self, answers: &[Answered]) -> usize {
        let ends = self.replacements.iter().skip(1).map(|next| Some(next.called)).chain([None]);
        let count = |(one, end): (&Replacement, Option<Instant>)| {
            // What was still in flight at the next call may be answered by that one.
            let is_within =
                |answer: &&Answered| answer.began > one.answered && end.is_none_or(|end| answer.ended < end);
            answers.iter().filter(is_within).filter(|answer| answer.by != one.tag).count()
        };
        self.replacements.iter().zip(ends).map(count).sum()
    }
}

/// Times of the requests that were in flight in any of the windows.
fn in_flight(answers: &[Answered], windows: &[(Instant, Instant)]) -> Vec<f64> {
    let is_in =
        |answer: &&Answered| windows.iter().any(|(from, to)| answer.began < *to && answer.ended > *from);
    answers.iter().filter(is_in).map(|answer| milliseconds(answer.began, answer.ended)).collect()
}

fn milliseconds(from: Instant, to: Instant) -> f64 {
    (to - from).as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_counted_by_what_was_under_way() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let answer = |from, to, by: &str| Answered { began: at(from), ended: at(to), by: by.to_owned() };
        let windows = Windows {
            loud: at(0),
            quiet: at(100),
            length: Duration::from_millis(100),
            replacements: vec![
                Replacement { called: at(10), answered: at(20), tag: "b".to_owned() },
                Replacement { called: at(60), answered: at(70), tag: "c".to_owned() },
            ],
        };
        let answers = [
            answer(0, 9, "a"),
            answer(5, 15, "a"),
            answer(15, 32, "b"),
            answer(25, 40, "a"),
            answer(40, 50, "b"),
            answer(55, 66, "c"),
            answer(105, 112, "c"),
            answer(130, 140, "c"),
            answer(165, 176, "c"),
        ];
        let seen = windows.seen(&answers);
        assert_eq!((seen.call_ms, seen.first_reply_ms), (vec![10.0, 10.0], vec![22.0, 6.0]));
        assert_eq!((seen.during, seen.without), (vec![10.0, 17.0, 11.0], vec![7.0, 11.0]));
        assert_eq!(seen.old_after, 1);
    }

    #[test]
    fn a_window_that_reaches_beyond_the_time_without_is_left_out() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let late = Replacement { called: at(95), answered: at(120), tag: "b".to_owned() };
        let windows = Windows {
            loud: at(0),
            quiet: at(200),
            length: Duration::from_millis(100),
            replacements: vec![late],
        };
        let seen = windows.seen(&[Answered { began: at(296), ended: at(299), by: "b".to_owned() }]);
        assert!(seen.without.is_empty() && seen.ratio().is_nan());
    }
}
