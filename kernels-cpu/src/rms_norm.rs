//! Root mean square normalisation of rows (RMSNorm, arXiv 1910.07467).

use std::ops::Range;

use crate::element::{Element, load_part, store_part};
use crate::isa::Isa;
use crate::shared_out::SharedOut;
use crate::target::{LANES, Target, dispatch};
use crate::team;

/// Values of one task: enough to be worth a helper's attention.
const TASK_VALUES: usize = 1 << 14;
/// Sums that grow side by side, so that none waits for its last addition.
const CHAINS: usize = 4;

/// One normalisation: `gamma x / sqrt(mean(x^2) + epsilon)` of each row, in f32.
#[derive(Clone, Copy, Debug)]
pub struct RmsNormCall<'a, E> {
    /// Rows, `[T, width]`.
    pub x: &'a [E],
    /// Weight, `[width]`.
    pub gamma: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Writes the normalised rows, `[T, width]`, on the threads of the [`team`].
///
/// # Panics
/// When a length does not fit the width.
pub fn rms_norm<E: Element>(isa: Isa, call: RmsNormCall<'_, E>, out: &mut [E]) {
    isa.require();
    let width = call.gamma.len();
    assert_eq!(out.len(), call.x.len(), "as many results as values");
    if out.is_empty() {
        return;
    }
    assert!(width > 0 && out.len().is_multiple_of(width), "out is not [T, {width}]");
    let rows = out.len() / width;
    let task = (TASK_VALUES / width).max(1);
    let out = SharedOut(out.as_mut_ptr());
    team::for_each(rows.div_ceil(task), |i| {
        normalize_rows(isa, &call, &out, i * task..rows.min((i + 1) * task));
    });
}

dispatch! {
    fn normalize_rows<E: Element>(call: &RmsNormCall<'_, E>, out: &SharedOut<E>, rows: Range<usize>) = rows_body
}

#[inline(always)]
fn rows_body<I: Target, E: Element>(call: &RmsNormCall<'_, E>, out: &SharedOut<E>, rows: Range<usize>) {
    let width = call.gamma.len();
    for row in rows {
        let x = &call.x[row * width..][..width];
        // SAFETY: the result has the row, and no other task writes it.
        unsafe { normalize::<I, E>(x, call.gamma, call.epsilon, out.0.add(row * width)) };
    }
}

/// One row; `gamma` is as long.
///
/// # Safety
/// There is room for as many values at `out`.
#[inline(always)]
unsafe fn normalize<I: Target, E: Element>(x: &[E], gamma: &[f32], epsilon: f32, out: *mut E) {
    let width = gamma.len();
    assert_eq!(x.len(), width, "a row as wide as the norm");
    let whole = width - width % LANES;
    let rest = width - whole;
    let chained = whole - whole % (CHAINS * LANES);
    let (x, gamma) = (x.as_ptr(), gamma.as_ptr());
    // SAFETY: all accesses are below `width`, which x and gamma have and the caller vouches for.
    unsafe {
        let mut squares = [I::splat(0.0); CHAINS];
        for c in (0..chained).step_by(CHAINS * LANES) {
            for (chain, squares) in squares.iter_mut().enumerate() {
                let v = E::load::<I>(x.add(c + chain * LANES));
                *squares = I::fma(v, v, *squares);
            }
        }
        for (chain, c) in (chained..whole).step_by(LANES).enumerate() {
            let v = E::load::<I>(x.add(c));
            squares[chain] = I::fma(v, v, squares[chain]);
        }
        let tail = load_part::<I, E>(x.add(whole), rest);
        let [a, b, c, d] = squares;
        let sum = I::fma(tail, tail, I::add(I::add(a, b), I::add(c, d)));
        let inverse = I::splat(1.0 / (I::sum(sum) / width as f32 + epsilon).sqrt());
        for c in (0..whole).step_by(LANES) {
            let v = I::mul(I::mul(E::load::<I>(x.add(c)), inverse), I::load(gamma.add(c)));
            E::store::<I>(v, out.add(c));
        }
        if rest > 0 {
            let v = I::mul(I::mul(tail, inverse), load_part::<I, f32>(gamma.add(whole), rest));
            store_part::<I, E>(v, out.add(whole), rest);
        }
    }
}
