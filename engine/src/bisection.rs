//! Which rows of a failed batch are to blame: they are run again by halves, within a bound.

/// The parts of one batch that are still to be run, the first part first.
///
/// A part that fails is cut in two until rows fail alone. One guilty row among n costs about 2 log2(n) runs; the bound
/// allows for two of them, so that a device that fails whatever it gets is not tried once for every row.
#[derive(Debug)]
pub(crate) struct Bisection<R> {
    parts: Vec<Vec<R>>,
    runs_left: usize,
}

/// What to do with a part that failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<R> {
    /// These rows fail: there is one, or the runs are used up.
    Guilty(Vec<R>),
    /// The part is run again in halves.
    Divided,
}

impl<R> Bisection<R> {
    /// The whole batch, not run yet.
    pub(crate) fn new(rows: Vec<R>) -> Self {
        let halvings = rows.len().max(1).ilog2() as usize + 1;
        Self { runs_left: 1 + 4 * halvings, parts: vec![rows] }
    }

    /// The next part to run.
    pub(crate) fn next(&mut self) -> Option<Vec<R>> {
        self.parts.pop()
    }

    /// Judges the part that was run last and failed.
    pub(crate) fn failed(&mut self, mut rows: Vec<R>) -> Verdict<R> {
        self.runs_left = self.runs_left.saturating_sub(1);
        if rows.len() < 2 || self.runs_left == 0 {
            return Verdict::Guilty(rows);
        }
        let second = rows.split_off(rows.len().div_ceil(2));
        self.parts.push(second);
        self.parts.push(rows);
        Verdict::Divided
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs `rows` rows of which those in `guilty` fail every part they are in: the rows that fail, and how many runs failed.
    fn run(rows: usize, guilty: &[usize]) -> (Vec<usize>, usize) {
        let mut bisection = Bisection::new((0..rows).collect());
        let (mut fallen, mut done, mut failures) = (vec![], vec![], 0);
        while let Some(part) = bisection.next() {
            if !part.iter().any(|row| guilty.contains(row)) {
                done.extend(part);
                continue;
            }
            failures += 1;
            if let Verdict::Guilty(part) = bisection.failed(part) {
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
            let (fallen, _) = run(rows, &guilty);
            prop_assert_eq!(fallen, guilty);
        }

        #[test]
        fn a_device_that_fails_always_is_tried_a_bounded_number_of_times(rows in 1usize..5000) {
            let guilty: Vec<usize> = (0..rows).collect();
            let (fallen, failures) = run_all_guilty(rows);
            prop_assert_eq!(fallen, guilty.len());
            prop_assert!(failures <= 3 + 6 * (rows.ilog2() as usize + 1), "{} runs", failures);
        }
    }

    /// As [`run`] when all are guilty.
    fn run_all_guilty(rows: usize) -> (usize, usize) {
        let mut bisection = Bisection::new((0..rows).collect());
        let (mut fallen, mut failures) = (0, 0);
        while let Some(part) = bisection.next() {
            failures += 1;
            if let Verdict::Guilty(part) = bisection.failed(part) {
                fallen += part.len();
            }
        }
        (fallen, failures)
    }

    #[test]
    fn order_is_kept() {
        let mut bisection = Bisection::new(vec![1, 2, 3]);
        let all = bisection.next().unwrap();
        assert_eq!(bisection.failed(all), Verdict::Divided);
        assert_eq!(
            (bisection.next(), bisection.next(), bisection.next()),
            (Some(vec![1, 2]), Some(vec![3]), None)
        );
    }
}
