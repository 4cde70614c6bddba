//! How much goes into one batch, and how many adapters: numbers only, no queue.

use std::num::NonZeroUsize;

use crate::mode::Batching;

/// Bounds of the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Tokens in one batch; a single row that is longer goes alone.
    pub max_batch_tokens: NonZeroUsize,
    /// Rows in one batch.
    pub max_batch_rows: NonZeroUsize,
    /// Rows that may wait; [`Scheduler::enqueue`](crate::Scheduler::enqueue) gives others back.
    pub max_waiting_rows: NonZeroUsize,
    /// Whose rows share a batch.
    pub batching: Batching,
}

/// Tokens of the next batch when `waiting` wait: all of them, or as many as make the batches that they need equal.
///
/// A batch filled to the brim leaves a small one behind, and whoever comes meanwhile waits for three batches instead of
/// two: ADR 12.
pub(crate) fn even_share(waiting: usize, limits: &BatchLimits) -> usize {
    let batches = waiting.div_ceil(limits.max_batch_tokens.get()).max(1);
    waiting.div_ceil(batches)
}

/// What is left of one batch while it is filled.
#[derive(Debug)]
pub(crate) struct BatchBudget {
    tokens_left: usize,
    rows_left: usize,
    tokens_taken: usize,
    goal: usize,
    is_empty: bool,
}

impl BatchBudget {
    /// The budget of an empty batch that is full enough with `goal` tokens.
    pub(crate) fn new(limits: &BatchLimits, goal: usize) -> Self {
        Self {
            tokens_left: limits.max_batch_tokens.get(),
            rows_left: limits.max_batch_rows.get(),
            tokens_taken: 0,
            goal,
            is_empty: true,
        }
    }

    /// Takes a row of `tokens` when it fits; the first row always does.
    pub(crate) fn take(&mut self, tokens: usize) -> bool {
        let fits = self.rows_left > 0 && tokens <= self.tokens_left;
        if !fits && !self.is_empty {
            return false;
        }
        self.is_empty = false;
        self.tokens_left = self.tokens_left.saturating_sub(tokens);
        self.rows_left -= 1;
        self.tokens_taken += tokens;
        true
    }

    /// Whether the batch is full enough, or no row at all fits any more.
    pub(crate) fn is_reached(&self) -> bool {
        self.rows_left == 0 || self.tokens_left == 0 || self.tokens_taken >= self.goal
    }

    /// Tokens that are enough.
    pub(crate) fn goal(&self) -> usize {
        self.goal
    }

    /// Tokens taken so far.
    pub(crate) fn tokens_taken(&self) -> usize {
        self.tokens_taken
    }
}

/// How many adapters a batch may bring, learnt from what the device pool could place.
///
/// Without a bound until a batch comes back with deferred rows; then what was placed, and one more after every full
/// batch that was placed whole. Ranks differ, so that the number is a guess which keeps batches full; that nobody
/// starves rests on the order of the domains alone. The base needs no place and is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AdapterCap(Option<usize>);

impl AdapterCap {
    /// Whether a batch that brings `adapters` may bring one more.
    pub(crate) fn has_room(&self, adapters: usize) -> bool {
        self.0.is_none_or(|cap| adapters < cap)
    }

    /// Learns from a batch that is done: how many adapters the device placed, and whether it deferred others.
    pub(crate) fn learn(&mut self, placed: usize, deferred: bool) {
        match (&mut self.0, deferred) {
            (cap, true) => *cap = Some(placed.max(1)),
            (Some(cap), false) if placed >= *cap => *cap += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(tokens: usize, rows: usize) -> BatchLimits {
        let bound = |n| NonZeroUsize::new(n).unwrap();
        BatchLimits {
            max_batch_tokens: bound(tokens),
            max_batch_rows: bound(rows),
            max_waiting_rows: bound(9),
            batching: Batching::Mixed,
        }
    }

    #[test]
    fn a_row_longer_than_the_budget_is_taken_first_or_not_at_all() {
        let mut first = BatchBudget::new(&limits(10, 4), usize::MAX);
        assert!(first.take(11));
        assert!(first.is_reached() && !first.take(1));
        let mut second = BatchBudget::new(&limits(10, 4), usize::MAX);
        assert!(second.take(1));
        assert!(!second.take(11));
        assert!(second.take(9));
        assert_eq!(second.tokens_taken(), 10);
    }

    #[test]
    fn rows_are_bounded_as_tokens_are() {
        let mut budget = BatchBudget::new(&limits(100, 2), usize::MAX);
        assert!(budget.take(1) && budget.take(1));
        assert!(budget.is_reached() && !budget.take(1));
    }

    #[test]
    fn what_needs_several_batches_is_cut_into_equal_ones() {
        let limits = limits(1024, 100);
        for (waiting, share) in [(1, 1), (1024, 1024), (1025, 513), (1600, 800), (2048, 1024), (2049, 683)] {
            assert_eq!(even_share(waiting, &limits), share);
        }
        let mut budget = BatchBudget::new(&limits, 20);
        assert!(budget.take(16) && !budget.is_reached());
        assert!(budget.take(16) && budget.is_reached());
    }

    #[test]
    fn the_adapter_cap_follows_what_was_placed_and_grows_back() {
        let mut cap = AdapterCap::default();
        cap.learn(50, false);
        assert!(cap.has_room(1000));
        cap.learn(4, true);
        assert!(cap.has_room(3) && !cap.has_room(4));
        cap.learn(2, false);
        assert!(!cap.has_room(4), "a batch below the cap teaches nothing");
        cap.learn(4, false);
        assert!(cap.has_room(4) && !cap.has_room(5));
        cap.learn(0, true);
        assert!(cap.has_room(0) && !cap.has_room(1), "one adapter may always try");
    }
}
