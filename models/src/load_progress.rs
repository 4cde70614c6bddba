//! How far a large checkpoint has been read, told now and then. Numbers only; time comes in as an argument.

use std::time::Duration;

/// Between two times that it is told: whoever waits no longer than that is told nothing.
const INTERVAL: Duration = Duration::from_secs(3);

/// Bytes of weights that have been read, of all.
#[derive(Debug)]
pub(crate) struct LoadProgress {
    total: u64,
    read: u64,
    /// When it was told last, counted from the beginning.
    told: Duration,
}

impl LoadProgress {
    /// None of `total` bytes so far.
    pub(crate) fn of(total: u64) -> Self {
        Self { total, read: 0, told: Duration::ZERO }
    }

    /// Adds bytes that were read by `now`, counted from the beginning; gives the percentage where it is time to tell it.
    pub(crate) fn add(&mut self, bytes: u64, now: Duration) -> Option<u64> {
        self.read = self.read.saturating_add(bytes);
        if now.saturating_sub(self.told) < INTERVAL {
            return None;
        }
        self.told = now;
        Some((self.read.min(self.total) * 100).checked_div(self.total).unwrap_or(100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_now_and_then_and_never_exceeds_a_hundred() {
        let mut progress = LoadProgress::of(1000);
        let told: Vec<Option<u64>> =
            [0, 1, 3, 4, 5, 6, 9].map(|second| progress.add(200, Duration::from_secs(second))).into();
        assert_eq!(told, [None, None, Some(60), None, None, Some(100), Some(100)]);
        assert_eq!(LoadProgress::of(0).add(0, INTERVAL), Some(100));
    }
}
