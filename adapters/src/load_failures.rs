//! Failed loads and how long each is not tried again.
//!
//! No clock here: the time comes in as an argument.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

/// Most keys whose failed loads are remembered.
pub const MAX_REMEMBERED_FAILURES: usize = 1024;

/// How long what keeps failing is left alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// After the first failure; doubled with each in a row.
    pub(crate) first: Duration,
    /// At most.
    pub(crate) longest: Duration,
}

impl Backoff {
    /// The pause after the last of so many failures in a row.
    pub(crate) fn pause(&self, in_a_row: u32) -> Duration {
        let doubled = 2u32.saturating_pow(in_a_row.saturating_sub(1));
        self.first.saturating_mul(doubled).min(self.longest)
    }
}

/// Failures by key, at most [`MAX_REMEMBERED_FAILURES`]: the one that failed longest ago goes first.
pub(crate) struct LoadFailures<K, E> {
    backoff: Backoff,
    failures: HashMap<K, Failure<E>>,
    by_age: BTreeMap<u64, K>,
    count: u64,
}

/// The last failure of a key.
struct Failure<E> {
    error: Arc<E>,
    at: Instant,
    pause: Duration,
    /// Failures since the last success.
    in_a_row: u32,
    /// The point of the count of all failures at which it happened.
    number: u64,
}

impl<K: Hash + Eq + Clone, E> LoadFailures<K, E> {
    /// Nothing failed yet. After a failure a key pauses as `backoff` says.
    pub(crate) fn new(backoff: Backoff) -> Self {
        let (failures, by_age) = (HashMap::new(), BTreeMap::new());
        Self { backoff, failures, by_age, count: 0 }
    }

    /// The last error of `key` while its pause lasts.
    pub(crate) fn pausing(&self, key: &K, now: Instant) -> Option<Arc<E>> {
        let failure = self.failures.get(key)?;
        let lasts = now.saturating_duration_since(failure.at) < failure.pause;
        lasts.then(|| Arc::clone(&failure.error))
    }

    /// Notes a failure: the pause of `key` begins.
    pub(crate) fn failed(&mut self, key: &K, error: Arc<E>, now: Instant) {
        let before = self.failures.remove(key);
        if let Some(before) = &before {
            self.by_age.remove(&before.number);
        }
        if self.failures.len() >= MAX_REMEMBERED_FAILURES
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.failures.remove(&oldest);
        }
        let in_a_row = before.map_or(1, |b| b.in_a_row.saturating_add(1));
        let (pause, number) = (self.backoff.pause(in_a_row), self.count);
        self.count += 1;
        self.by_age.insert(number, key.clone());
        self.failures.insert(key.clone(), Failure { error, at: now, pause, in_a_row, number });
    }

    /// Forgets how often `key` failed: after a success, or when somebody mended it.
    pub(crate) fn forget(&mut self, key: &K) {
        if let Some(failure) = self.failures.remove(key) {
            self.by_age.remove(&failure.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TICK: Duration = Duration::from_nanos(1);

    fn failing(first: Duration, longest: Duration) -> (LoadFailures<usize, u32>, Instant) {
        (LoadFailures::new(Backoff { first, longest }), Instant::now())
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_end_on_time() {
        let (mut failures, mut now) = failing(SECOND, 10 * SECOND);
        for (n, seconds) in [1u32, 2, 4, 8, 10, 10, 10].into_iter().enumerate() {
            let error = Arc::new(n as u32);
            failures.failed(&7, Arc::clone(&error), now);
            let end = now + seconds * SECOND;
            assert!(failures.pausing(&7, end - TICK).is_some_and(|e| Arc::ptr_eq(&e, &error)), "failure {n}");
            assert_eq!(failures.pausing(&7, end), None, "failure {n}");
            assert_eq!(failures.pausing(&8, now), None, "others do not pause");
            now = end;
        }
    }

    #[test]
    fn a_success_forgets_all_failures_in_a_row() {
        let (mut failures, now) = failing(SECOND, 100 * SECOND);
        for _ in 0..5 {
            failures.failed(&7, Arc::new(0), now);
        }
        failures.forget(&7);
        assert_eq!(failures.pausing(&7, now), None);
        failures.failed(&7, Arc::new(0), now);
        assert_eq!(failures.pausing(&7, now + SECOND), None, "the first pause again");
    }

    #[test]
    fn endless_failures_and_endless_pauses_do_not_overflow() {
        let (mut failures, now) = failing(Duration::MAX / 2, Duration::MAX);
        for _ in 0..100 {
            failures.failed(&7, Arc::new(0), now);
        }
        assert!(failures.pausing(&7, now + 1_000_000 * SECOND).is_some());
    }

    #[test]
    fn the_oldest_failures_go_when_there_are_too_many() {
        let (mut failures, now) = failing(SECOND, SECOND);
        for key in 0..MAX_REMEMBERED_FAILURES {
            failures.failed(&key, Arc::new(0), now);
        }
        failures.failed(&0, Arc::new(0), now);
        failures.failed(&MAX_REMEMBERED_FAILURES, Arc::new(0), now);
        let pausing = |key: usize| failures.pausing(&key, now).is_some();
        assert!(pausing(0), "it failed again since");
        assert!(!pausing(1), "the one that failed longest ago");
        assert!(pausing(2) && pausing(MAX_REMEMBERED_FAILURES));
        assert_eq!(failures.failures.len(), MAX_REMEMBERED_FAILURES);
        assert_eq!(failures.by_age.len(), MAX_REMEMBERED_FAILURES);
    }
}
