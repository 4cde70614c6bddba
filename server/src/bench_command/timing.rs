//! Times of repeated passes.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use polylora_kernels::team;
use serde::Serialize;

/// Passes that are counted unless they take far longer than there is time.
const FEWEST: usize = 3;
/// Passes that are counted at most.
const MOST: usize = 10_000;
/// How many times the time for a figure may be exceeded for the sake of [`FEWEST`].
const PATIENCE: u32 = 4;

/// A rate in thousand millions a second, with one thread and with all of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// With one thread.
    pub one_thread: f64,
    /// With all threads.
    pub all_threads: f64,
}

/// Seconds of repeated passes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// The median pass.
    pub median: f64,
    /// The fastest pass.
    pub fastest: f64,
}

impl Rates {
    /// The rate of a pass that does `work` units, half of `budget` for each number of threads. The fastest pass counts: it
    /// is what the machine gives where nothing else runs on it.
    pub fn of(work: f64, budget: Duration, mut pass: impl FnMut()) -> Self {
        let mut rate = || work / Times::of(budget / 2, &mut pass).fastest / 1e9;
        let all_threads = rate();
        let one_thread = match team::threads() {
            1 => all_threads,
            _ => team::with_threads(NonZeroUsize::MIN, rate),
        };
        Self { one_thread, all_threads }
    }
}

impl Times {
    /// Of as many passes as `budget` has time for: one at least, after one that is not counted.
    pub fn of(budget: Duration, mut pass: impl FnMut()) -> Self {
        pass();
        let (began, mut times) = (Instant::now(), vec![]);
        loop {
            let start = Instant::now();
            pass();
            times.push(start.elapsed().as_secs_f64());
            let limit = if times.len() < FEWEST { budget * PATIENCE } else { budget };
            if times.len() >= MOST || began.elapsed() >= limit {
                return Self::among(times);
            }
        }
    }

    /// The middle one, or the mean of the two in the middle, and the lowest of at least one.
    fn among(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let middle = times.len() / 2;
        let even = times.len().is_multiple_of(2);
        let median = if even { (times[middle - 1] + times[middle]) / 2.0 } else { times[middle] };
        Self { median, fastest: times[0] }
    }
}

/// Of two kinds of passes in turn, so that what slows the machine for a while slows both; `pass` is told whose turn it is.
pub fn in_turn(budget: Duration, mut pass: impl FnMut(usize)) -> [Times; 2] {
    let mut times = [vec![], vec![]];
    // Those that are not counted.
    (0..2).for_each(&mut pass);
    let began = Instant::now();
    loop {
        for (turn, times) in times.iter_mut().enumerate() {
            let start = Instant::now();
            pass(turn);
            times.push(start.elapsed().as_secs_f64());
        }
        let limit = if times[0].len() < FEWEST { budget * PATIENCE } else { budget };
        if times[0].len() >= MOST || began.elapsed() >= limit {
            return times.map(Times::among);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_the_mean_of_the_two() {
        assert_eq!(Times::among(vec![9.0, 1.0, 2.0]), Times { median: 2.0, fastest: 1.0 });
        assert_eq!(Times::among(vec![4.0, 1.0, 2.0, 9.0]), Times { median: 3.0, fastest: 1.0 });
    }

    #[test]
    fn passes_are_counted_within_the_time_and_one_in_any_case() {
        for (budget, fewest, most) in
            [(Duration::ZERO, 2, 2), (Duration::from_secs(3600), MOST + 1, MOST + 1)]
        {
            let mut passes = 0;
            Times::of(budget, || passes += 1);
            assert!((fewest..=most).contains(&passes), "{passes}");
        }
    }

    #[test]
    fn two_kinds_of_passes_take_turns() {
        let mut turns = vec![];
        in_turn(Duration::ZERO, |turn| turns.push(turn));
        assert_eq!(turns, [0, 1, 0, 1]);
    }
}
