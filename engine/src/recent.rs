//! What happened lately: work a second, and how long requests took. Numbers only; time comes in as an argument.

use std::time::Duration;

/// Seconds that rates are taken over.
pub(crate) const WINDOW_SECONDS: u64 = 10;
/// Requests that latencies are taken over.
pub(crate) const WINDOW_REQUESTS: usize = 1024;

/// The window, and the second that is under way.
const SLOTS: usize = WINDOW_SECONDS as usize + 1;

/// Rows and tokens by second.
#[derive(Debug, Default)]
pub(crate) struct WorkWindow {
    slots: [Slot; SLOTS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    second: u64,
    rows: u64,
    tokens: u64,
}

/// Work a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct WorkRates {
    /// Rows a second.
    pub(crate) rows: f64,
    /// Tokens a second.
    pub(crate) tokens: f64,
}

impl WorkWindow {
    /// Adds work that was done at `now`, counted from any beginning.
    pub(crate) fn add(&mut self, now: Duration, rows: usize, tokens: usize) {
        let second = now.as_secs();
        let slot = &mut self.slots[(second % SLOTS as u64) as usize];
        if slot.second != second {
            *slot = Slot { second, ..Slot::default() };
        }
        slot.rows += rows as u64;
        slot.tokens += tokens as u64;
    }

    /// The rates over the last whole seconds, up to [`WINDOW_SECONDS`] of them; zero in the first second.
    pub(crate) fn rates(&self, now: Duration) -> WorkRates {
        let end = now.as_secs();
        let seconds = end.min(WINDOW_SECONDS);
        if seconds == 0 {
            return WorkRates::default();
        }
        let within = self.slots.iter().filter(|slot| (end - seconds..end).contains(&slot.second));
        let (rows, tokens) = within.fold((0, 0), |sum, slot| (sum.0 + slot.rows, sum.1 + slot.tokens));
        WorkRates { rows: rows as f64 / seconds as f64, tokens: tokens as f64 / seconds as f64 }
    }
}

/// How long the last [`WINDOW_REQUESTS`] requests took.
#[derive(Debug, Default)]
pub(crate) struct LatencyWindow {
    took: Vec<Duration>,
    next: usize,
}

impl LatencyWindow {
    /// Adds a request.
    pub(crate) fn add(&mut self, took: Duration) {
        if self.took.len() < WINDOW_REQUESTS {
            self.took.push(took);
        } else {
            self.took[self.next] = took;
            self.next = (self.next + 1) % WINDOW_REQUESTS;
        }
    }

    /// The least time that `percent` of a hundred requests did not exceed, for each of `percents`; `None` without requests.
    pub(crate) fn percentiles<const N: usize>(&self, percents: [usize; N]) -> Option<[Duration; N]> {
        let mut sorted = self.took.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        Some(
            percents
                .map(|percent| sorted[(sorted.len() * percent).div_ceil(100).saturating_sub(1).min(last)]),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn at(tenths: u64) -> Duration {
        Duration::from_millis(tenths * 100)
    }

    #[test]
    fn a_rate_is_over_whole_seconds_and_forgets_what_is_old() {
        let mut window = WorkWindow::default();
        window.add(at(5), 10, 100);
        assert_eq!(window.rates(at(9)), WorkRates::default());
        assert_eq!(window.rates(at(10)), WorkRates { rows: 10.0, tokens: 100.0 });
        window.add(at(15), 30, 300);
        assert_eq!(window.rates(at(29)), WorkRates { rows: 20.0, tokens: 200.0 });
        assert_eq!(window.rates(at(110)), WorkRates { rows: 3.0, tokens: 30.0 });
        assert_eq!(window.rates(at(120)), WorkRates::default());
    }

    proptest! {
        #[test]
        fn steady_work_has_its_rate(rows in 1usize..50, from in 12u64..1000) {
            let mut window = WorkWindow::default();
            for tenth in 0..from * 10 {
                window.add(at(tenth), rows, 2 * rows);
            }
            let rates = window.rates(at(from * 10));
            prop_assert_eq!(rates, WorkRates { rows: 10.0 * rows as f64, tokens: 20.0 * rows as f64 });
        }
    }

    #[test]
    fn percentiles_are_of_the_last_requests() {
        let mut window = LatencyWindow::default();
        assert_eq!(window.percentiles([50]), None);
        window.add(Duration::from_secs(1000));
        assert_eq!(window.percentiles([50, 99]), Some([Duration::from_secs(1000); 2]));
        for millis in 1..=WINDOW_REQUESTS as u64 {
            window.add(Duration::from_millis(millis));
        }
        let found = window.percentiles([50, 99, 100]).unwrap();
        assert_eq!(found, [512, 1014, 1024].map(Duration::from_millis));
    }
}
