//! Embedding lookup: rows of a table, a unit a vector; and `norm(words[id] + positions[position])`, a workgroup a row.

use cubecl::prelude::*;

use super::lookup::group_number;
use super::row_norm::{NormShape, normalised};

/// `table[id]`: ids are `[T]`, the table `[.., width]` with rows `stride` values apart, `out` is `[T, width]`. Grid: x (and z)
/// rows, y blocks of columns.
#[cube(launch)]
pub(crate) fn embed<F: Float, N: Size>(
    table: &[Vector<F, N>],
    ids: &[i32],
    out: &mut [Vector<F, N>],
    rows: u32,
    width: u32,
    stride: u32,
    #[define(F)] _dtype: ElemType,
    #[define(N)] _lanes: usize,
) {
    let vectors = width as usize / N::value();
    let row = group_number();
    let vector = CUBE_POS_Y as usize * CUBE_DIM as usize + UNIT_POS as usize;
    if row < rows as usize && vector < vectors {
        let id = ids[row] as usize;
        out[row * vectors + vector] = table[id * (stride as usize / N::value()) + vector];
    }
}

/// Ids and positions are `[T]`, the tables `[.., width]` with rows their
/// strides apart, `out` is `[T, width]`. Grid: x (and z) rows.
#[cube(launch)]
pub(crate) fn embed_norm<F: Float, N: Size>(
    words: &[Vector<F, N>],
    positions: &[Vector<F, N>],
    ids: &[i32],
    position_ids: &[i32],
    gamma: &[Vector<F, N>],
    beta: &[Vector<F, N>],
    epsilon: f32,
    out: &mut [Vector<F, N>],
    rows: u32,
    width: u32,
    word_stride: u32,
    position_stride: u32,
    #[comptime] shape: NormShape,
    #[define(F)] _dtype: ElemType,
    #[define(N)] _lanes: usize,
) {
    let vectors = width as usize / N::value();
    let row = group_number();
    let live = row < rows as usize;
    let row = select(live, row, 0);
    let word = ids[row] as usize * (word_stride as usize / N::value());
    let position = position_ids[row] as usize * (position_stride as usize / N::value());
    let mut values = Array::<Vector<f32, N>>::new(shape.vectors_per_unit);
    #[unroll]
    for i in 0..shape.vectors_per_unit {
        let vector = UNIT_POS as usize + i * comptime!(shape.units);
        values[i] = Vector::<f32, N>::new(0.0f32);
        if vector < vectors {
            values[i] = Vector::<f32, N>::cast_from(words[word + vector])
                + Vector::<f32, N>::cast_from(positions[position + vector]);
        }
    }
    let values = normalised(values, gamma, beta, epsilon, vectors, 1usize, shape);
    #[unroll]
    for i in 0..shape.vectors_per_unit {
        let vector = UNIT_POS as usize + i * comptime!(shape.units);
        if live && vector < vectors {
            out[row * vectors + vector] = Vector::<F, N>::cast_from(values[i]);
        }
    }
}
