//! One vector per sequence from its rows.

use crate::epilogue::add;
use crate::isa::{Isa, Target, dispatch};
use crate::norm::l2_normalize;

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
pub fn pool(isa: Isa, hidden: &[f32], cu_seqlens: &[u32], how: (Pooling, bool), out: &mut [f32]) {
    isa.require();
    let sequences = cu_seqlens.len().saturating_sub(1);
    if sequences == 0 {
        return;
    }
    let width = out.len() / sequences;
    assert_eq!(out.len(), sequences * width, "out is not [{sequences}, width]");
    assert!(cu_seqlens.windows(2).all(|w| w[0] < w[1]), "an empty sequence has no embedding");
    assert_eq!(hidden.len(), cu_seqlens[sequences] as usize * width, "hidden is not [T, {width}]");
    rows(isa, hidden, cu_seqlens, how, out);
}

dispatch! {
    fn rows(hidden: &[f32], cu_seqlens: &[u32], how: (Pooling, bool), out: &mut [f32]) = rows_body
}

#[inline(always)]
fn rows_body<I: Target>(hidden: &[f32], cu_seqlens: &[u32], how: (Pooling, bool), out: &mut [f32]) {
    let (pooling, normalize) = how;
    let width = out.len() / (cu_seqlens.len() - 1);
    if width == 0 {
        return;
    }
    for (pair, row) in cu_seqlens.windows(2).zip(out.chunks_exact_mut(width)) {
        let sequence = &hidden[pair[0] as usize * width..pair[1] as usize * width];
        let last = sequence.len() - width;
        match pooling {
            Pooling::Cls => row.copy_from_slice(&sequence[..width]),
            Pooling::LastToken => row.copy_from_slice(&sequence[last..]),
            Pooling::Mean => {
                row.copy_from_slice(&sequence[..width]);
                sequence[width..].chunks_exact(width).for_each(|token| add(row, token));
                let inverse = 1.0 / (sequence.len() / width) as f32;
                row.iter_mut().for_each(|v| *v *= inverse);
            }
            Pooling::Max => {
                row.copy_from_slice(&sequence[..width]);
                for token in sequence[width..].chunks_exact(width) {
                    for (highest, v) in row.iter_mut().zip(token) {
                        // NaN wins, so that it is seen.
                        *highest = if *v > *highest || v.is_nan() { *v } else { *highest };
                    }
                }
            }
        }
        if normalize {
            l2_normalize::<I>(row);
        }
    }
}
