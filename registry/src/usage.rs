//! How a version fares: figures that are kept beside the registry and written now and then.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Requests that [`Usage::success_rate`] looks back on.
pub const RECENT_OUTCOMES: u32 = 100;

/// Weight of a new latency in the moving average.
const EMA_WEIGHT: f64 = 0.1;

/// A version's requests so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Requests that it answered or failed.
    pub requests: u64,
    /// Those it failed.
    pub errors: u64,
    /// Exponential moving average of its latency, milliseconds.
    pub latency_ema_ms: f64,
    /// When it was last asked.
    pub last_used: Option<Timestamp>,
    /// The newest outcomes, one bit each, the last one lowest; 1 is a success.
    recent: u128,
}

impl Usage {
    /// Counts a request.
    pub fn count(&mut self, is_ok: bool, latency_ms: f64, now: Timestamp) {
        self.requests += 1;
        self.errors += u64::from(!is_ok);
        self.recent = self.recent << 1 | u128::from(is_ok);
        self.last_used = self.last_used.max(Some(now));
        if is_ok && latency_ms.is_finite() {
            let first = self.requests - self.errors == 1;
            let weight = if first { 1.0 } else { EMA_WEIGHT };
            self.latency_ema_ms += weight * (latency_ms - self.latency_ema_ms);
        }
    }

    /// Share of successes among the last [`RECENT_OUTCOMES`] requests, 0 to 1; `None` before the first.
    pub fn success_rate(&self) -> Option<f64> {
        let seen = self.requests.min(u64::from(RECENT_OUTCOMES)) as u32;
        let mask = (1u128 << seen) - 1;
        (seen > 0).then(|| f64::from((self.recent & mask).count_ones()) / f64::from(seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_success_rate_is_that_of_the_last_hundred(outcomes in prop::collection::vec(any::<bool>(), 0..300)) {
            let mut usage = Usage::default();
            for (at, &is_ok) in outcomes.iter().enumerate() {
                usage.count(is_ok, 5.0, Timestamp(at as u64));
            }
            let recent = &outcomes[outcomes.len().saturating_sub(100)..];
            let rate = recent.iter().filter(|ok| **ok).count() as f64 / recent.len() as f64;
            prop_assert_eq!(usage.success_rate(), (!recent.is_empty()).then_some(rate));
            prop_assert_eq!(usage.errors, outcomes.iter().filter(|ok| !**ok).count() as u64);
            let expected = if outcomes.contains(&true) { 5.0 } else { 0.0 };
            prop_assert!((usage.latency_ema_ms - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn the_average_follows_the_latency() {
        let mut usage = Usage::default();
        (0..100).for_each(|at| usage.count(true, 10.0, Timestamp(at)));
        usage.count(false, 9000.0, Timestamp(100));
        assert_eq!(usage.latency_ema_ms, 10.0, "a failure has no latency");
        (0..100).for_each(|at| usage.count(true, 20.0, Timestamp(at)));
        assert!((usage.latency_ema_ms - 20.0).abs() < 0.01);
        assert_eq!(usage.last_used, Some(Timestamp(100)));
    }
}
