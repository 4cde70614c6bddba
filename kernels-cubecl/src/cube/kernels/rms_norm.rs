//! Root mean square normalisation, a workgroup a row.

use cubecl::prelude::*;

use super::lookup::group_number;
use super::row_sum::row_sums;
use super::vectors::lane_sum;

/// `gamma x / sqrt(mean(x^2) + epsilon)`; `x` is `[T, width]` with rows `stride` values apart, `out` `[T, width]`. Rows of any
/// width: a unit goes from vector to vector, once for the squares and once for the result. Grid: x (and z) rows.
#[cube(launch)]
pub(crate) fn rms_norm<F: Float, N: Size>(
    x: &[Vector<F, N>],
    gamma: &[Vector<F, N>],
    epsilon: f32,
    out: &mut [Vector<F, N>],
    rows: u32,
    width: u32,
    stride: u32,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
    #[define(N)] _lanes: usize,
) {
    let vectors = width as usize / N::value();
    let row = group_number();
    let live = row < rows as usize;
    let row = select(live, row, 0);
    let first = row * (stride as usize / N::value());
    let mut part = Vector::<f32, N>::new(0.0f32);
    let mut vector = UNIT_POS as usize;
    while vector < vectors {
        let value = Vector::<f32, N>::cast_from(x[first + vector]);
        part += value * value;
        vector += units;
    }
    let mut scratch = Shared::<[f32]>::new_slice(units);
    let mut parts = Array::<f32>::new(1usize);
    parts[0] = lane_sum::<N>(part);
    let squares = row_sums(&parts, &mut scratch, 1usize, units);
    let scale = 1.0f32 / f32::sqrt(squares[0] / f32::cast_from(width) + epsilon);
    let mut vector = UNIT_POS as usize;
    while live && vector < vectors {
        let value = Vector::<f32, N>::cast_from(x[first + vector]) * Vector::<f32, N>::new(scale);
        let weight = Vector::<f32, N>::cast_from(gamma[vector]);
        out[row * vectors + vector] = Vector::<F, N>::cast_from(value * weight);
        vector += units;
    }
}
