//! Layer normalisation (arXiv 1607.06450) and L2 normalisation of rows.

use crate::element::{Element, load_part, store_part};
use crate::target::{LANES, Target};

/// Parameters of a layer normalisation.
#[derive(Clone, Copy, Debug)]
pub struct NormParams<'a> {
    /// Weight, `[width]`.
    pub gamma: &'a [f32],
    /// Bias, `[width]`.
    pub beta: &'a [f32],
    /// Added to the variance.
    pub epsilon: f32,
}

/// Normalises the row at `sums`, as wide as the parameters, into `out`, which may be the same memory.
///
/// # Safety
/// As many values lie at `sums`, and there is room for them at `out`.
#[inline(always)]
pub(crate) unsafe fn layer_norm<I: Target, E: Element>(sums: *const f32, norm: NormParams<'_>, out: *mut E) {
    let width = norm.gamma.len();
    assert_eq!(norm.beta.len(), width, "gamma and beta differ in width");
    let whole = width - width % LANES;
    // SAFETY: all accesses are below `width`, which the caller vouches for and gamma and beta have.
    unsafe {
        let mut total = I::splat(0.0);
        for c in (0..whole).step_by(LANES) {
            total = I::add(total, I::load(sums.add(c)));
        }
        let tail = load_part::<I, f32>(sums.add(whole), width - whole);
        let mean = I::sum(I::add(total, tail)) / width as f32;
        let means = I::splat(mean);
        let mut squares = I::splat(0.0);
        for c in (0..whole).step_by(LANES) {
            let d = I::sub(I::load(sums.add(c)), means);
            squares = I::fma(d, d, squares);
        }
        let mut squared = I::sum(squares);
        for c in whole..width {
            squared += (*sums.add(c) - mean) * (*sums.add(c) - mean);
        }
        let inverse = I::splat(1.0 / (squared / width as f32 + norm.epsilon).sqrt());
        for c in (0..whole).step_by(LANES) {
            let v = I::mul(I::sub(I::load(sums.add(c)), means), inverse);
            let v = I::fma(v, I::load(norm.gamma.as_ptr().add(c)), I::load(norm.beta.as_ptr().add(c)));
            E::store::<I>(v, out.add(c));
        }
        if whole < width {
            let rest = width - whole;
            let v = I::mul(I::sub(tail, means), inverse);
            let gamma = load_part::<I, f32>(norm.gamma.as_ptr().add(whole), rest);
            let beta = load_part::<I, f32>(norm.beta.as_ptr().add(whole), rest);
            store_part::<I, E>(I::fma(v, gamma, beta), out.add(whole), rest);
        }
    }
}

/// Divides `row` by its L2 norm; a row of norm below 1e-12 is divided by 1e-12, as torch's `normalize` does.
#[inline(always)]
pub(crate) fn l2_normalize<I: Target>(row: &mut [f32]) {
    let mut squares = I::splat(0.0);
    let chunks = row.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|v| v * v).sum();
    for chunk in chunks {
        // SAFETY: a chunk has sixteen values.
        let v = unsafe { I::load(chunk.as_ptr()) };
        squares = I::fma(v, v, squares);
    }
    let norm = (I::sum(squares) + tail).sqrt();
    let inverse = 1.0 / if norm < 1e-12 { 1e-12 } else { norm };
    row.iter_mut().for_each(|v| *v *= inverse);
}
