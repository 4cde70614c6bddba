//! Which rows of a failed batch are to blame: they are run again by halves, within a bound.

/// The parts of one batch that are still to be run, the first part first.
///
/// A part that fails is cut in two until rows fail alone. One guilty row among n costs about 2 log2(n) runs; the bound
/// allows for two of them, so that a device that fails whatever it gets is not tried once for every row. A device that is
/// lost costs a new runner each time: when the whole batch and both halves have lost it, no part is tried any more.
#[derive(Debug)]
pub(crate) struct Bisection<R> {
    parts: Vec<Vec<R>>,
    runs_left: usize,
    runs: usize,
    losses: usize,
}

/// What a part did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It was not computed; the device can take the next one.
    OfRows,
    /// It cost the device.
    OfDevice,
}

/// What to do with a part that failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<R> {
    /// These rows fail: there is one, or the runs are used up, or these are all that is left and the device is to blame.
    Guilty(Vec<R>),
    /// The part is run again in halves.
    Divided,
}

impl<R> Bisection<R> {
    /// The whole batch, not run yet.
    pub(crate) fn new(rows: Vec<R>) -> Self {
        let halvings = rows.len().max(1).ilog2() as usize + 1;
        Self { runs_left: 1 + 4 * halvings, parts: vec![rows], runs: 0, losses: 0 }
    }

    /// The next part to run.
    pub(crate) fn next(&mut self) -> Option<Vec<R>> {
        let part = self.parts.pop()?;
        self.runs += 1;
        Some(part)
    }

    /// Judges the part that was run last and failed.
    pub(crate) fn failed(&mut self, mut rows: Vec<R>, failure: Failure) -> Verdict<R> {
        self.runs_left = self.runs_left.saturating_sub(1);
        self.losses += usize::from(failure == Failure::OfDevice);
        // The runs so far were the batch and its halves, and none did better.
        if self.runs == 3 && self.losses == 3 {
            rows.extend(self.parts.drain(..).flatten());
            return Verdict::Guilty(rows);
        }
        if rows.len() < 2 || self.runs_left == 0 {
            return Verdict::Guilty(rows);
        }
        let second = rows.split_off(rows.len().div_ceil(2));
        match self.runs {
            // The second half of the batch comes before the quarters of the first: it says whose fault it is.
            2 => drop(self.parts.splice(0..0, [second, rows])),
            _ => self.parts.extend([second, rows]),
        }
        Verdict::Divided
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs `rows` rows of which those in `guilty` fail every part they are in: the rows that fail, and how many runs failed.
    fn run(rows: usize, guilty: &[usize], failure: Failure) -> (Vec<usize>, usize) {
        let mut bisection = Bisection::new((0..rows).collect());
        let (mut fallen, mut done, mut failures) = (vec![], vec![], 0);
        while let Some(part) = bisection.next() {
            if !part.iter().any(|row| guilty.contains(row)) {
                done.extend(part);
                continue;
            }
            failures += 1;
            if let Verdict::Guilty(part) = bisection.failed(part, failure) {
                fallen.extend(part);
            }
        }
        let mut all = [fallen.clone(), done].concat();
        all.sort_unstable();
        assert_eq!(all, (0..rows).collect::<Vec<_>>(), "every row is judged once");
        (fallen, failures)
    }

    proptest! {
        #[test]
        fn one_or_two_guilty_rows_fail_alone_wherever_they_are(
            rows in 1usize..300, first in any::<prop::sample::Index>(), second in any::<prop::sample::Index>(),
        ) {
            let mut guilty = vec![first.index(rows), second.index(rows)];
            guilty.sort_unstable();
            guilty.dedup();
            let (mut fallen, _) = run(rows, &guilty, Failure::OfRows);
            fallen.sort_unstable();
            prop_assert_eq!(fallen, guilty);
        }

        #[test]
        fn a_device_that_fails_always_is_tried_a_bounded_number_of_times(rows in 1usize..5000) {
            let (fallen, failures) = run_all_guilty(rows, Failure::OfRows);
            prop_assert_eq!(fallen, rows);
            prop_assert!(failures <= 3 + 6 * (rows.ilog2() as usize + 1), "{} runs", failures);
        }

        #[test]
        fn a_device_that_is_lost_with_the_batch_and_both_halves_is_not_tried_again(rows in 1usize..5000) {
            prop_assert_eq!(run_all_guilty(rows, Failure::OfDevice), (rows, if rows == 1 { 1 } else { 3 }));
        }

        #[test]
        fn one_row_that_costs_the_device_fails_alone_wherever_it_is(
            rows in 1usize..300, guilty in any::<prop::sample::Index>(),
        ) {
            let guilty = guilty.index(rows);
            prop_assert_eq!(run(rows, &[guilty], Failure::OfDevice).0, [guilty]);
        }
    }

    /// As [`run`] when all are guilty.
    fn run_all_guilty(rows: usize, failure: Failure) -> (usize, usize) {
        let mut bisection = Bisection::new((0..rows).collect());
        let (mut fallen, mut failures) = (0, 0);
        while let Some(part) = bisection.next() {
            failures += 1;
            if let Verdict::Guilty(part) = bisection.failed(part, failure) {
                fallen += part.len();
            }
        }
        (fallen, failures)
    }

    #[test]
    fn order_is_kept() {
        let mut bisection = Bisection::new(vec![1, 2, 3]);
        let all = bisection.next().unwrap();
        assert_eq!(bisection.failed(all, Failure::OfRows), Verdict::Divided);
        assert_eq!(
            (bisection.next(), bisection.next(), bisection.next()),
            (Some(vec![1, 2]), Some(vec![3]), None)
        );
    }
}
