//! Layer normalisation (arXiv 1607.06450) and L2 normalisation of rows.

use crate::isa::Target;
use crate::lanes::{LANES, dot, fma, sum};

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

/// Normalises `row` in place.
#[inline(always)]
pub(crate) fn layer_norm<I: Target>(row: &mut [f32], norm: NormParams<'_>) {
    let width = row.len() as f32;
    let mean = total(row) / width;
    let mut squares = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|v| (v - mean) * (v - mean)).sum();
    for chunk in chunks {
        for i in 0..LANES {
            let d = chunk[i] - mean;
            squares[i] = fma::<I>(d, d, squares[i]);
        }
    }
    let variance = (sum(squares) + tail) / width;
    let inverse = 1.0 / (variance + norm.epsilon).sqrt();
    for ((v, gamma), beta) in row.iter_mut().zip(norm.gamma).zip(norm.beta) {
        *v = fma::<I>((*v - mean) * inverse, *gamma, *beta);
    }
}

/// Divides `row` by its L2 norm; a row of norm below 1e-12 is divided by 1e-12, as torch's `normalize` does.
#[inline(always)]
pub(crate) fn l2_normalize<I: Target>(row: &mut [f32]) {
    let norm = dot::<I>(row, row).sqrt();
    let inverse = 1.0 / if norm < 1e-12 { 1e-12 } else { norm };
    row.iter_mut().for_each(|v| *v *= inverse);
}

#[inline(always)]
fn total(row: &[f32]) -> f32 {
    let mut acc = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for i in 0..LANES {
            acc[i] += chunk[i];
        }
    }
    sum(acc) + tail
}
