//! One vector per sequence from its rows.

use crate::element::{Element, load_part};
use crate::isa::Isa;
use crate::norm::l2_normalize;
use crate::target::{LANES, Target, dispatch};

/// How a sequence's rows become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The mean over all rows.
    Mean,
    /// The first row.
    Cls,
    /// The maximum of each column.
    Max,
    /// The last row.
    LastToken,
}

/// Pools `hidden`, `[T, width]`, into `out`, `[B, width]`; `normalize` divides each by its L2 norm.
///
/// # Panics
/// When a sequence is empty or a length does not fit.
pub fn pool<E: Element>(
    isa: Isa,
    hidden: &[E],
    cu_seqlens: &[u32],
    (pooling, normalize): (Pooling, bool),
    out: &mut [f32],
) {
    isa.require();
    let sequences = cu_seqlens.len().saturating_sub(1);
    if sequences == 0 {
        return;
    }
    let width = out.len() / sequences;
    assert_eq!(out.len(), sequences * width, "out is not [{sequences}, width]");
    assert!(cu_seqlens.windows(2).all(|w| w[0] < w[1]), "an empty sequence has no embedding");
    assert_eq!(hidden.len(), cu_seqlens[sequences] as usize * width, "hidden is not [T, {width}]");
    if width == 0 {
        return;
    }
    for (pair, row) in cu_seqlens.windows(2).zip(out.chunks_exact_mut(width)) {
        let sequence = &hidden[pair[0] as usize * width..pair[1] as usize * width];
        one(isa, sequence, pooling, normalize, row);
    }
}

dispatch! {
    fn one<E: Element>(sequence: &[E], pooling: Pooling, normalize: bool, out: &mut [f32]) = one_body
}

/// Pools the rows of one sequence into `out`.
#[inline(always)]
fn one_body<I: Target, E: Element>(sequence: &[E], pooling: Pooling, normalize: bool, out: &mut [f32]) {
    let width = out.len();
    let tokens = sequence.len() / width;
    for column in (0..width).step_by(LANES) {
        let count = LANES.min(width - column);
        let mut v = row_lanes::<I, E>(sequence, width, (0, column), count);
        match pooling {
            Pooling::Cls => {}
            Pooling::LastToken => v = row_lanes::<I, E>(sequence, width, (tokens - 1, column), count),
            Pooling::Mean => {
                for t in 1..tokens {
                    v = I::add(v, row_lanes::<I, E>(sequence, width, (t, column), count));
                }
                v = I::mul(v, I::splat(1.0 / tokens as f32));
            }
            Pooling::Max => {
                // NaN wins, so that it is seen: it stays in the sum of all values times zero.
                let mut flaw = I::mul(v, I::splat(0.0));
                for t in 1..tokens {
                    let next = row_lanes::<I, E>(sequence, width, (t, column), count);
                    flaw = I::fma(next, I::splat(0.0), flaw);
                    v = I::max(v, next);
                }
                v = I::add(v, flaw);
            }
        }
        // SAFETY: `count` columns are left of the row.
        unsafe { crate::element::store_part::<I, f32>(v, out.as_mut_ptr().add(column), count) };
    }
    if normalize {
        l2_normalize::<I>(out);
    }
}

/// `count` values of a row from a column on, zeros behind.
#[inline(always)]
fn row_lanes<I: Target, E: Element>(
    sequence: &[E],
    width: usize,
    (row, column): (usize, usize),
    count: usize,
) -> I::Lanes {
    let values = &sequence[row * width + column..][..count];
    // SAFETY: the slice has `count` values.
    unsafe {
        if count == LANES { E::load::<I>(values.as_ptr()) } else { load_part::<I, E>(values.as_ptr(), count) }
    }
}
