//! Which adapter each of many requests asks for, when few are asked for often and many seldom.

use crate::Random;

/// Steps that the unit interval is drawn in: far finer than any adapter's share.
const STEPS: usize = 1 << 30;

/// Zipf's law over so many adapters: the k-th is asked for in proportion to `1 / k^exponent`.
#[derive(Clone, Debug)]
pub struct Zipf {
    /// Shares summed from the first on; the last is 1.
    summed: Vec<f64>,
    random: Random,
}

impl Zipf {
    /// Over `count` adapters, which must be one at least; `seed` names the sequence.
    pub fn new(count: usize, exponent: f64, seed: u64) -> Self {
        let weights = (1..=count).map(|k| (k as f64).powf(-exponent));
        let mut summed: Vec<f64> = weights
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        let all = *summed.last().expect("an adapter");
        summed.iter_mut().for_each(|sum| *sum /= all);
        Self { summed, random: Random::new(seed) }
    }

    /// The number of the next one, from 0.
    pub fn draw(&mut self) -> usize {
        let at = self.random.below(STEPS) as f64 / STEPS as f64;
        self.summed.partition_point(|sum| *sum <= at).min(self.summed.len() - 1)
    }

    /// The next `count` of `names`.
    pub fn names(&mut self, names: &[String], count: usize) -> Vec<String> {
        (0..count).map(|_| names[self.draw()].clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_asked_for_twice_as_often_as_the_second() {
        let (mut zipf, mut counts) = (Zipf::new(100, 1.0, 3), [0; 100]);
        for _ in 0..100_000 {
            counts[zipf.draw()] += 1;
        }
        // The sum of 1/k to 100 is 5.187.
        assert!((18_500..20_100).contains(&counts[0]), "{}", counts[0]);
        assert!((9_200..10_100).contains(&counts[1]), "{}", counts[1]);
        assert!((130..260).contains(&counts[99]), "{}", counts[99]);
    }

    #[test]
    fn one_adapter_is_always_the_same_and_an_exponent_of_0_knows_no_favourite() {
        let mut one = Zipf::new(1, 1.0, 1);
        assert!((0..100).all(|_| one.draw() == 0));
        let (mut even, mut counts) = (Zipf::new(4, 0.0, 1), [0; 4]);
        (0..4000).for_each(|_| counts[even.draw()] += 1);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
