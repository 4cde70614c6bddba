//! What follows a linear layer's product, in place: LoRA's second half (SGMV and BGMV expand), bias, activation and residual;
//! and the same with layer normalisation.

use cubecl::prelude::*;

use super::column::{ColumnShape, HIDDEN_LANES, RowBlock, finished_column, row_block};
use super::lookup::{LoraTables, TileRef, group_number, tile_at};
use super::row_norm::{NormShape, normalised};

/// The block of rows of this workgroup. Tiles are `tile_rows` high; without adapters they simply follow one another.
#[cube]
fn own_rows(
    tables: &LoraTables,
    total_rows: usize,
    #[comptime] tile_rows: usize,
    #[comptime] shape: ColumnShape,
) -> RowBlock {
    let height = comptime!(shape.rows);
    let blocks = comptime!(tile_rows.div_ceil(height));
    let group = group_number();
    if comptime!(shape.lora) {
        row_block(tile_at(tables, group / blocks), group % blocks, height)
    } else {
        let first_row = min(group * height, total_rows);
        let rows = min(total_rows - first_row, height);
        row_block(TileRef { first_row, rows, adapter: -1i32 }, 0usize, height)
    }
}

/// `activation(g (W x) + B h + bias)`, perhaps with a residual added, in place of `W x`, `[T, outputs]`.
///
/// Grid: x (and z) blocks of rows, y blocks of columns, a unit a vector.
#[cube(launch)]
pub(crate) fn linear_end<F: Float, N: Size>(
    product: &mut [Vector<F, N>],
    residual: &[Vector<F, N>],
    bias: &[Vector<F, N>],
    arena: &[Vector<F, N>],
    hidden: &[Vector<f32, Const<HIDDEN_LANES>>],
    tables: &LoraTables,
    total_rows: u32,
    outputs: u32,
    #[comptime] tile_rows: usize,
    #[comptime] shape: ColumnShape,
    #[define(F)] _dtype: ElemType,
    #[define(N)] _lanes: usize,
) {
    let vectors = outputs as usize / N::value();
    let vector = CUBE_POS_Y as usize * CUBE_DIM as usize + UNIT_POS as usize;
    let block = own_rows(tables, total_rows as usize, tile_rows, shape);
    if vector < vectors && block.rows > 0 {
        let column = vector * N::value();
        let values =
            finished_column(product, residual, bias, arena, hidden, tables, block, column, vectors, shape);
        #[unroll]
        for row in 0..comptime!(shape.rows) {
            if row < block.rows {
                product[(block.first + row) * vectors + vector] = Vector::<F, N>::cast_from(values[row]);
            }
        }
    }
}

/// `norm(linear + residual)` in place of `W x`, `[T, outputs]`.
///
/// Grid: x (and z) blocks of rows; a workgroup has whole rows.
#[cube(launch)]
pub(crate) fn linear_add_norm_end<F: Float, N: Size>(
    product: &mut [Vector<F, N>],
    residual: &[Vector<F, N>],
    bias: &[Vector<F, N>],
    arena: &[Vector<F, N>],
    hidden: &[Vector<f32, Const<HIDDEN_LANES>>],
    tables: &LoraTables,
    gamma: &[Vector<F, N>],
    beta: &[Vector<F, N>],
    epsilon: f32,
    total_rows: u32,
    outputs: u32,
    #[comptime] tile_rows: usize,
    #[comptime] shape: ColumnShape,
    #[comptime] row: NormShape,
    #[define(F)] _dtype: ElemType,
    #[define(N)] _lanes: usize,
) {
    let vectors = outputs as usize / N::value();
    let block = own_rows(tables, total_rows as usize, tile_rows, shape);
    let rows = comptime!(shape.rows);
    let mut values = Array::<Vector<f32, N>>::new(comptime!(rows * row.vectors_per_unit));
    #[unroll]
    for i in 0..comptime!(row.vectors_per_unit) {
        let vector = UNIT_POS as usize + i * comptime!(row.units);
        #[unroll]
        for r in 0..rows {
            values[r * row.vectors_per_unit + i] = Vector::<f32, N>::new(0.0f32);
        }
        if vector < vectors && block.rows > 0 {
            let column = vector * N::value();
            let sums = finished_column(
                product, residual, bias, arena, hidden, tables, block, column, vectors, shape,
            );
            #[unroll]
            for r in 0..rows {
                if r < block.rows {
                    values[r * row.vectors_per_unit + i] = sums[r];
                }
            }
        }
    }
    let values = normalised(values, gamma, beta, epsilon, vectors, rows, row);
    #[unroll]
    for i in 0..comptime!(row.vectors_per_unit) {
        let vector = UNIT_POS as usize + i * comptime!(row.units);
        #[unroll]
        for r in 0..rows {
            if vector < vectors && r < block.rows {
                let at = (block.first + r) * vectors + vector;
                product[at] = Vector::<F, N>::cast_from(values[r * row.vectors_per_unit + i]);
            }
        }
    }
}
