//! Elementary functions that a compiler turns into vector code: no branch, no call, no table.

use crate::isa::Target;
use crate::lanes::fma;

/// `e^x`, relative error below 4e-7; 0 below -87.3, NaN stays NaN. Range reduction and polynomial after Cephes'
/// `expf` (S. L. Moshier).
#[inline(always)]
pub(crate) fn exp<I: Target>(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    // 1.5 * 2^23: adding it rounds to an integer that stands in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let clamped = if clamped > 88.3 { 88.3 } else { clamped };
    let shifted = fma::<I>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<I>(n, -0.693_359_4, clamped);
    let r = fma::<I>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = fma::<I>(p, r, c);
    }
    let p = fma::<I>(p, r * r, r + 1.0);
    let two_to_n = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    let value = p * two_to_n;
    if x < LOWEST { 0.0 } else { value }
}

/// The error function, absolute error below 1e-6: Abramowitz and Stegun, 7.1.26.
#[inline(always)]
pub(crate) fn erf<I: Target>(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = 1.0 / fma::<I>(0.327_591_1, magnitude, 1.0);
    let mut p = 1.061_405_4;
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = fma::<I>(p, t, c);
    }
    let value = 1.0 - p * t * exp::<I>(-magnitude * magnitude);
    value.copysign(x)
}

/// `tanh x` by way of `exp`, absolute error below 4e-7.
#[inline(always)]
pub(crate) fn tanh<I: Target>(x: f32) -> f32 {
    let e = exp::<I>(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Baseline;

    /// erf by its Taylor series in f64, good to 1e-12 for |x| <= 4.
    fn erf_series(x: f64) -> f64 {
        let (mut term, mut total, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 {
            n += 1.0;
            term *= -x * x / n;
            total += term / (2.0 * n + 1.0);
        }
        total * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn elementary_functions_keep_their_stated_errors() {
        for i in -4000..4000 {
            let x = i as f32 * 1e-3;
            assert!((erf::<Baseline>(x) as f64 - erf_series(x as f64)).abs() < 1e-6, "erf {x}");
            assert!((tanh::<Baseline>(x) as f64 - (x as f64).tanh()).abs() < 4e-7, "tanh {x}");
            let wide = x * 20.0;
            let want = (wide as f64).exp();
            assert!((exp::<Baseline>(wide) as f64 - want).abs() <= 4e-7 * want + 1e-37, "exp {wide}");
        }
        assert_eq!(exp::<Baseline>(-1e30), 0.0);
        assert!(exp::<Baseline>(f32::NAN).is_nan());
        assert!(exp::<Baseline>(f32::NEG_INFINITY) == 0.0);
    }
}
