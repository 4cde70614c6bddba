//! Sixteen accumulators side by side: reductions whose order does not depend on the instruction set's width.

use crate::isa::Target;

/// Lanes of a reduction: one AVX-512 register, two AVX2 ones, four SSE or NEON ones.
pub(crate) const LANES: usize = 16;

/// `a * b + c`, fused where the target has it.
#[inline(always)]
pub(crate) fn fma<I: Target>(a: f32, b: f32, c: f32) -> f32 {
    if I::FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Sum over the lanes, as a tree.
#[inline(always)]
pub(crate) fn sum(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The sixteen values at `at`.
#[inline(always)]
pub(crate) fn at(values: &[f32], at: usize) -> &[f32; LANES] {
    values[at..at + LANES].try_into().expect("sixteen values")
}

/// The sixteen values at `at`, to be written.
#[inline(always)]
pub(crate) fn at_mut(values: &mut [f32], at: usize) -> &mut [f32; LANES] {
    (&mut values[at..at + LANES]).try_into().expect("sixteen values")
}

/// Dot product of two slices of equal length.
#[inline(always)]
pub(crate) fn dot<I: Target>(x: &[f32], y: &[f32]) -> f32 {
    let mut acc = I::splat(0.0);
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let tail: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in xs.zip(ys) {
        acc = I::fma_lanes(I::load(at(a, 0)), I::load(at(b, 0)), acc);
    }
    let mut lanes = [0f32; LANES];
    I::store(acc, &mut lanes);
    sum(lanes) + tail
}

/// `y += scale * x`.
#[inline(always)]
pub(crate) fn axpy<I: Target>(scale: f32, x: &[f32], y: &mut [f32]) {
    let factor = I::splat(scale);
    let (mut ys, xs) = (y.chunks_exact_mut(LANES), x.chunks_exact(LANES));
    let rest = xs.remainder();
    for (out, value) in ys.by_ref().zip(xs) {
        let sum = I::fma_lanes(factor, I::load(at(value, 0)), I::load(at(out, 0)));
        I::store(sum, at_mut(out, 0));
    }
    for (out, value) in ys.into_remainder().iter_mut().zip(rest) {
        *out = fma::<I>(scale, *value, *out);
    }
}
