//! What loaded adapters cost traffic that does not use them: two servers under the same load of the base, in turn.

use crate::{Aim, BenchError, HttpLoad, HttpServer, Passes, WordPool, measure_load};

/// Rates of the base's traffic on a server with adapters, each between two of a server without.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BasePairs {
    /// Replies a second without adapters before, with them, and without them after.
    pub rates: Vec<[f64; 3]>,
    /// LoRA layers that the server with adapters launched meanwhile.
    pub launches: f64,
}

/// How much slower it may be.
const LEAST_RATIO: f64 = 0.98;

impl BasePairs {
    /// Measures `rounds` times, without, with, without.
    ///
    /// # Errors
    /// When a server fails, or the first one has no adapter loaded.
    pub fn measure(
        [with, without]: [&HttpServer; 2],
        load: &HttpLoad,
        rounds: usize,
        mut pool: WordPool,
    ) -> Result<(Self, WordPool), BenchError> {
        const LAUNCHES: &str = "polylora_lora_launches_total";
        if with.metric("polylora_adapters_resident")? == 0.0 {
            return Err(BenchError::Server { reason: "no adapter is loaded: nothing is compared".into() });
        }
        let before = with.metric(LAUNCHES)?;
        let mut rates = vec![];
        for _ in 0..rounds.max(1) {
            let mut round = [0.0; 3];
            for (server, rate) in [without, with, without].into_iter().zip(&mut round) {
                let (figures, rest) = measure_load(server, load, pool)?;
                (*rate, pool) = (figures.rate, rest);
            }
            rates.push(round);
        }
        Ok((Self { rates, launches: with.metric(LAUNCHES)? - before }, pool))
    }

    /// With over without, the median of the rounds.
    pub fn ratio(&self) -> f64 {
        self.median(|[before, with, after]| 2.0 * with / (before + after))
    }

    /// How far apart the two measurements of the server without adapters are, over their mean, the median of the rounds.
    pub fn noise(&self) -> f64 {
        self.median(|[before, _, after]| 2.0 * (before - after).abs() / (before + after))
    }

    /// No slower than 2 % within noise, and no launch.
    pub fn aims(&self) -> [Aim; 2] {
        let rate =
            Aim::at_least("base traffic, with 13 adapters loaded / none, req/s", self.ratio(), LEAST_RATIO);
        [
            rate.with_noise(self.noise()),
            Aim::at_most("LoRA launches in base traffic, 13 adapters loaded", self.launches, 0.0),
        ]
    }

    fn median(&self, of: impl Fn(&[f64; 3]) -> f64) -> f64 {
        if self.rates.is_empty() {
            f64::NAN
        } else {
            Passes::of(self.rates.iter().map(of).collect()).median()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verdict;

    #[test]
    fn a_drift_of_the_machine_is_no_cost_of_adapters() {
        let drifting = BasePairs { rates: vec![[100.0, 95.0, 90.0], [90.0, 85.0, 80.0]], launches: 0.0 };
        assert_eq!(drifting.ratio(), 1.0);
        assert!(drifting.noise() > 0.1);
        assert!(drifting.aims().iter().all(|aim| aim.verdict() == Verdict::Met));
    }

    #[test]
    fn a_cost_beyond_noise_and_any_launch_are_missed() {
        let slow = BasePairs { rates: vec![[100.0, 90.0, 101.0]; 3], launches: 6.0 };
        assert!(slow.aims().iter().all(|aim| aim.verdict() == Verdict::Missed));
    }
}
