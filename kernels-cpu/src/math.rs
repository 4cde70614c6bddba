//! Elementary functions on lanes: no branch, no call, no table.

use crate::target::Target;

/// `e^x`, relative error below 4e-7; 0 below -87.3, NaN stays NaN. Range reduction and polynomial after Cephes'
/// `expf` (S. L. Moshier).
#[inline(always)]
pub(crate) fn exp<I: Target>(x: I::Lanes) -> I::Lanes {
    const LOWEST: f32 = -87.336_54;
    // In this order of arguments NaN passes.
    let clamped = I::max(I::splat(LOWEST), I::min(I::splat(88.3), x));
    let n = I::round(I::mul(clamped, I::splat(std::f32::consts::LOG2_E)));
    let r = I::fma(n, I::splat(-0.693_359_4), clamped);
    let r = I::fma(n, I::splat(2.121_944_4e-4), r);
    let mut p = I::splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = I::fma(p, r, I::splat(c));
    }
    let p = I::fma(p, I::mul(r, r), I::add(r, I::splat(1.0)));
    I::zero_below(I::times_two_to(p, n), x, LOWEST)
}

/// `2^x` for `x` up to 0, relative error below 2e-7, or 1e-5 where that is fine enough (`coarse`); below -126 what `2^-126`
/// is, that is, next to nothing; NaN stays NaN. Polynomials fitted on [-1/2, 1/2] as those below.
#[inline(always)]
pub(crate) fn exp2_of_negative<I: Target>(x: I::Lanes, coarse: bool) -> I::Lanes {
    const FINE: [f32; 7] =
        [1.534_580_5e-4, 1.339_993_1e-3, 9.618_489e-3, 5.550_328_6e-2, 2.402_264_6e-1, 6.931_472e-1, 1.0];
    const COARSE: [f32; 5] = [9.570_094e-3, 5.591_786e-2, 2.402_474_4e-1, 6.931_218e-1, 9.999_993e-1];
    // In this order of arguments NaN passes.
    let x = I::max(I::splat(-126.0), x);
    let n = I::round(x);
    let r = I::sub(x, n);
    let p = if coarse { horner::<I, 5>(&COARSE, r) } else { horner::<I, 7>(&FINE, r) };
    I::times_two_to(p, n)
}

/// `x Phi(x)`, Phi the normal distribution's function, absolute error below 2e-6 for |x| up to 6, beyond that
/// below 4e-7 |x|: Phi - 1/2 as an odd rational function,
/// fitted on [-5.3, 5.3] by least squares that weigh the worst points up.
#[inline(always)]
pub(crate) fn gelu<I: Target>(x: I::Lanes) -> I::Lanes {
    const P: [f32; 6] =
        [2.405_064e-8, 6.379_043e-6, 1.603_323_3e-4, 4.627_980_3e-3, 3.293_557e-2, 3.989_422_6e-1];
    const Q: [f32; 6] = [1.237_171e-6, 7.135_16e-5, 1.836_559_2e-3, 2.813_87e-2, 2.492_234_6e-1, 1.0];
    let clamped = I::max(I::splat(-5.3), I::min(I::splat(5.3), x));
    let t = I::mul(clamped, clamped);
    let ratio = I::div(horner::<I, 6>(&P, t), horner::<I, 6>(&Q, t));
    I::mul(x, I::fma(ratio, clamped, I::splat(0.5)))
}

/// `x Phi(x)` with an absolute error below 5e-5 for |x| up to 6 and 2e-5 |x| beyond, for results that are rounded to 8 bits or fewer: Phi - 1/2 as an odd
/// polynomial, fitted on [-4.2, 4.2] likewise.
#[inline(always)]
pub(crate) fn gelu_coarse<I: Target>(x: I::Lanes) -> I::Lanes {
    const P: [f32; 9] = [
        5.998_036e-11,
        -5.633_296_5e-9,
        2.343_668_8e-7,
        -5.760_762_6e-6,
        9.457_436e-5,
        -1.114_148e-3,
        9.830_131e-3,
        -6.636_038e-2,
        3.989_074_5e-1,
    ];
    let clamped = I::max(I::splat(-4.2), I::min(I::splat(4.2), x));
    let p = horner::<I, 9>(&P, I::mul(clamped, clamped));
    I::mul(x, I::fma(p, clamped, I::splat(0.5)))
}

/// `tanh x` by way of `exp`, absolute error below 4e-7.
#[inline(always)]
pub(crate) fn tanh<I: Target>(x: I::Lanes) -> I::Lanes {
    // (e^2x - 1) / (e^2x + 1) on [-9, 9], beyond which f32 knows only 1.
    let clamped = I::max(I::splat(-9.0), I::min(I::splat(9.0), x));
    let e = exp::<I>(I::add(clamped, clamped));
    I::div(I::sub(e, I::splat(1.0)), I::add(e, I::splat(1.0)))
}

/// `x / (1 + e^-x)`, absolute error below 1e-6 (1 + |x|): by way of `max(x, 0) - a e^-a / (1 + e^-a)` for `a = |x|`, which
/// neither overflows nor cancels. NaN stays NaN.
#[inline(always)]
pub(crate) fn silu<I: Target>(x: I::Lanes) -> I::Lanes {
    let zero = I::splat(0.0);
    // Beyond 87 the second term is nothing. In this order of arguments NaN passes.
    let size = I::min(I::splat(87.0), I::max(x, I::sub(zero, x)));
    let decay = exp::<I>(I::sub(zero, size));
    let below = I::div(I::mul(size, decay), I::add(I::splat(1.0), decay));
    I::sub(I::max(zero, x), below)
}

/// The polynomial with the coefficients `c`, that of the highest power first, at `t`.
#[inline(always)]
fn horner<I: Target, const N: usize>(c: &[f32; N], t: I::Lanes) -> I::Lanes {
    let mut p = I::splat(c[0]);
    for c in &c[1..] {
        p = I::fma(p, t, I::splat(*c));
    }
    p
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Baseline, LANES};

    /// Phi by the Taylor series of erf in f64, good to 1e-9 for |x| <= 6.
    fn phi(x: f64) -> f64 {
        let z = x / std::f64::consts::SQRT_2;
        let (mut term, mut total, mut n) = (z, z, 0.0);
        while term.abs() > 1e-18 {
            n += 1.0;
            term *= -z * z / n;
            total += term / (2.0 * n + 1.0);
        }
        0.5 + total / std::f64::consts::PI.sqrt()
    }

    fn at(f: impl Fn([f32; LANES]) -> [f32; LANES], x: f32) -> f32 {
        f([x; LANES])[7]
    }

    #[test]
    fn elementary_functions_keep_their_stated_errors() {
        for i in -6000..6000 {
            let x = i as f32 * 1e-3;
            let want = x as f64 * phi(x as f64);
            assert!((at(gelu::<Baseline>, x) as f64 - want).abs() < 2e-6, "gelu {x}");
            assert!((at(gelu_coarse::<Baseline>, x) as f64 - want).abs() < 5e-5, "gelu_coarse {x}");
            assert!((at(tanh::<Baseline>, x) as f64 - (x as f64).tanh()).abs() < 4e-7, "tanh {x}");
            let below = -x.abs() * 20.0;
            let want = (below as f64).exp2();
            assert!(
                (at(|v| exp2_of_negative::<Baseline>(v, false), below) as f64 - want).abs() <= 2e-7 * want,
                "{below}"
            );
            assert!(
                (at(|v| exp2_of_negative::<Baseline>(v, true), below) as f64 - want).abs() <= 1e-5 * want,
                "{below}"
            );
            let wide = x * 14.0;
            let want = wide as f64 / (1.0 + (-wide as f64).exp());
            assert!(
                (at(silu::<Baseline>, wide) as f64 - want).abs() < 1e-6 * (1.0 + want.abs()),
                "silu {wide}"
            );
            let want = (wide as f64).exp();
            assert!((at(exp::<Baseline>, wide) as f64 - want).abs() <= 4e-7 * want, "exp {wide}");
        }
        assert!(at(|v| exp2_of_negative::<Baseline>(v, false), f32::NEG_INFINITY) < 2e-38);
        assert!(at(|v| exp2_of_negative::<Baseline>(v, true), f32::NAN).is_nan());
        assert_eq!(at(exp::<Baseline>, -1e30), 0.0);
        assert_eq!(at(exp::<Baseline>, f32::NEG_INFINITY), 0.0);
        for (x, want) in [(f32::MAX, f32::MAX), (1e9, 1e9), (-1e9, 0.0), (f32::MIN, 0.0)] {
            assert!((at(silu::<Baseline>, x) - want).abs() < 1e-30, "silu {x}");
        }
        for f in
            [silu::<Baseline>, exp::<Baseline>, gelu::<Baseline>, gelu_coarse::<Baseline>, tanh::<Baseline>]
        {
            assert!(at(f, f32::NAN).is_nan());
        }
        assert!((at(gelu::<Baseline>, 100.0) - 100.0).abs() < 1e-4);
        assert!(at(gelu_coarse::<Baseline>, -50.0).abs() < 1e-3);
    }
}
