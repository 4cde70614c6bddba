//! What a logit weighs in a softmax, as a whole number.

/// Weights `exp((logit - peak) / temperature)` as whole multiples of 2^-40.
///
/// Whole numbers add up to the same sum in any order, so what is drawn does not depend on how the sums were cut into
/// blocks; and only IEEE products and sums go into a weight, so it is the same on every machine. A weight is off by at
/// most 3e-7 of itself and 2^-41; what weighs less than that counts for nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boltzmann {
    peak: f32,
    /// log2(e) / temperature.
    sharpness: f32,
    /// Lowest exponent that weighs anything.
    floor: f32,
}

/// log2 of the peak's weight.
pub(crate) const PEAK_BITS: i32 = 40;
/// The peak's weight.
pub(crate) const PEAK_MASS: u64 = 1 << PEAK_BITS;
/// Logits whose weights add up without overflow.
pub(crate) const MOST_LOGITS: usize = 1 << (63 - PEAK_BITS);

/// Weights that are computed in one go.
const STRIDE: usize = 64;

/// Adding it to a small number rounds that to a whole one and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0;
/// The same for the f64 numbers from 0 to 2^51.
const ROUND_WIDE: f64 = 4_503_599_627_370_496.0;
/// 2 to this power times 2^40 rounds to 0.
const NOTHING: f32 = -64.0;
/// 2^r on [-1/2, 1/2]: the Taylor series of exp(r ln 2), the highest power first.
const SERIES: [f32; 8] = [
    1.525_273_4e-5,
    1.540_353e-4,
    1.333_355_8e-3,
    9.618_129e-3,
    5.550_411e-2,
    2.402_265e-1,
    6.931_472e-1,
    1.0,
];

impl Boltzmann {
    /// `peak` is the highest logit and finite, `temperature` is finite and above 0.
    pub fn new(peak: f32, temperature: f32) -> Self {
        Self { peak, sharpness: std::f32::consts::LOG2_E / temperature, floor: f32::NEG_INFINITY }
    }

    /// The same weights, those below `share` of the peak's set to 0.
    pub fn at_least(self, share: f32) -> Self {
        Self { floor: share.log2(), ..self }
    }

    /// log2 of the weight over the peak's; never falls while the logit rises. `logit` is not NaN.
    #[inline(always)]
    pub fn exponent(&self, logit: f32) -> f32 {
        (logit - self.peak) * self.sharpness
    }

    /// Lowest exponent that weighs anything.
    pub fn floor(&self) -> f32 {
        self.floor
    }

    /// The weight, at most [`PEAK_MASS`].
    pub fn mass(&self, logit: f32) -> u64 {
        mass_of(self.share(logit))
    }

    /// The sum of the weights of `logits`, at most [`MOST_LOGITS`] of them.
    pub fn total(&self, logits: &[f32]) -> u64 {
        let mut shares = [0.0; STRIDE];
        let mut total = 0;
        for logits in logits.chunks(STRIDE) {
            // Two loops, each simple enough for the compiler to make vectors of it.
            for (share, &logit) in shares.iter_mut().zip(logits) {
                *share = self.share(logit);
            }
            total += shares[..logits.len()].iter().map(|&share| mass_of(share)).sum::<u64>();
        }
        total
    }

    /// The weight over the peak's, 0 to 1. Without branches.
    #[inline(always)]
    fn share(&self, logit: f32) -> f32 {
        let exponent = self.exponent(logit);
        let clamped = if exponent > NOTHING { exponent } else { NOTHING };
        let rounded = clamped + ROUND;
        let whole = rounded.to_bits().wrapping_sub(ROUND.to_bits());
        let rest = clamped - (rounded - ROUND);
        let power = SERIES[1..].iter().fold(SERIES[0], |power, c| power * rest + c);
        let share = power * f32::from_bits(whole.wrapping_add(127) << 23);
        if exponent >= self.floor { share } else { 0.0 }
    }
}

/// A share of the peak's weight as a weight.
#[inline(always)]
fn mass_of(share: f32) -> u64 {
    let scaled = f64::from(share) * PEAK_MASS as f64 + ROUND_WIDE;
    scaled.to_bits() - ROUND_WIDE.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_the_exponential_within_its_stated_error() {
        for temperature in [0.3f32, 1.0, 2.5] {
            let weights = Boltzmann::new(3.0, temperature);
            for i in 0..40_000 {
                let logit = 3.0 - i as f32 * 1e-3;
                let want = ((f64::from(logit) - 3.0) / f64::from(temperature)).exp();
                let got = weights.mass(logit) as f64 / PEAK_MASS as f64;
                // The exponent itself is rounded to f32.
                let exponent_error = f64::from(weights.exponent(logit).abs()) * 1.2e-7;
                let bound = want * (3e-7 + exponent_error) + 0.5f64.powi(PEAK_BITS + 1);
                assert!((got - want).abs() <= bound, "{temperature} {logit}: {got} {want}");
            }
        }
    }

    #[test]
    fn the_peak_weighs_one_and_what_is_far_below_nothing() {
        for (peak, temperature) in [(0.0, 1.0), (f32::MAX, 1e-5), (-1e30, f32::MAX)] {
            let weights = Boltzmann::new(peak, temperature);
            assert_eq!(weights.mass(peak), PEAK_MASS);
            assert_eq!(weights.mass(f32::NEG_INFINITY), 0);
        }
        assert_eq!(Boltzmann::new(f32::MAX, 1e-5).mass(f32::MIN), 0);
    }

    #[test]
    fn a_floor_cuts_at_its_share_of_the_peak() {
        let weights = Boltzmann::new(0.0, 1.0).at_least(0.5);
        assert!(weights.mass(-0.693) > 0);
        assert_eq!(weights.mass(-0.694), 0);
        let only_the_peak = Boltzmann::new(0.0, 1.0).at_least(1.0);
        assert_eq!([only_the_peak.mass(0.0), only_the_peak.mass(-1e-6)], [PEAK_MASS, 0]);
    }
}
