//! Times of repeated passes.

use std::time::{Duration, Instant};

use crate::BenchError;

/// Passes that are not counted, at the start of each measurement.
const WARM_UP: usize = 2;
/// Passes that are counted at least, whatever the time.
const FEWEST: usize = 3;
/// Passes that are counted at most.
const MOST: usize = 2000;

/// Times of passes, in milliseconds, ascending; never empty.
#[derive(Clone, Debug)]
pub struct Passes(Vec<f64>);

impl Passes {
    /// The median.
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 { self.0[middle] } else { (self.0[middle - 1] + self.0[middle]) / 2.0 }
    }

    /// The time that a share of the passes, from 0 to 1, did not exceed (nearest rank).
    pub fn percentile(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    /// The fastest.
    pub fn min(&self) -> f64 {
        self.0[0]
    }

    /// The slowest.
    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    /// All of them, ascending.
    pub fn sorted(&self) -> &[f64] {
        &self.0
    }

    /// Sorts times in milliseconds; there must be one at least.
    pub fn of(mut times: Vec<f64>) -> Self {
        assert!(!times.is_empty(), "no pass was timed");
        times.sort_by(f64::total_cmp);
        Self(times)
    }
}

/// The median; no number where there are no times.
pub(crate) fn median(times: Vec<f64>) -> f64 {
    if times.is_empty() { f64::NAN } else { Passes::of(times).median() }
}

/// Times `pass` again and again for about `budget`.
///
/// # Errors
/// The pass's own.
pub fn passes(
    budget: Duration,
    mut pass: impl FnMut() -> Result<(), BenchError>,
) -> Result<Passes, BenchError> {
    for _ in 0..WARM_UP {
        pass()?;
    }
    let (began, mut times) = (Instant::now(), vec![]);
    while times.len() < FEWEST || (times.len() < MOST && began.elapsed() < budget) {
        times.push(milliseconds(&mut pass)?);
    }
    Ok(Passes::of(times))
}

/// Times two passes in turn, so that what slows the machine for a while slows both. Returns the times of each, and the
/// ratios second / first of neighbours as if they were times.
///
/// # Errors
/// The passes' own.
pub fn in_turn(
    budget: Duration,
    mut first: impl FnMut() -> Result<(), BenchError>,
    mut second: impl FnMut() -> Result<(), BenchError>,
) -> Result<[Passes; 3], BenchError> {
    for _ in 0..WARM_UP {
        first()?;
        second()?;
    }
    let began = Instant::now();
    let [mut firsts, mut seconds, mut ratios] = [vec![], vec![], vec![]];
    while firsts.len() < FEWEST || (firsts.len() < MOST && began.elapsed() < budget) {
        let (one, two) = (milliseconds(&mut first)?, milliseconds(&mut second)?);
        firsts.push(one);
        seconds.push(two);
        ratios.push(two / one);
    }
    Ok([firsts, seconds, ratios].map(Passes::of))
}

fn milliseconds(pass: &mut impl FnMut() -> Result<(), BenchError>) -> Result<f64, BenchError> {
    let began = Instant::now();
    pass()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_the_mean_of_the_two() {
        assert_eq!(Passes::of(vec![9.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Passes::of(vec![4.0, 1.0, 2.0, 9.0]).median(), 3.0);
    }

    #[test]
    fn a_percentile_is_a_time_that_was_seen() {
        let hundred = Passes::of((1..=100).map(f64::from).collect());
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| hundred.percentile(share)), [1.0, 50.0, 99.0, 100.0]);
        assert_eq!(Passes::of(vec![7.0]).percentile(0.99), 7.0);
    }

    #[test]
    fn two_passes_take_turns() {
        let order = std::cell::RefCell::new(vec![]);
        let note = |who: u8| {
            order.borrow_mut().push(who);
            Ok(())
        };
        let timed = in_turn(Duration::ZERO, || note(1), || note(2)).expect("times");
        assert_eq!(timed[0].sorted().len(), FEWEST);
        assert!(order.borrow().chunks(2).all(|pair| pair == [1, 2]));
    }
}
