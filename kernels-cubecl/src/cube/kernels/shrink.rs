//! `h = A x`: the first half of LoRA, for all sites that share an input (SGMV and BGMV of Punica, arXiv 2310.18547).
//!
//! Hidden columns are the ranks of the layer's spans side by side, each padded to [`RANK_STEP`]; padding is written as
//! zeros, columns beyond an adapter's own are not written.

use cubecl::prelude::*;

use super::lookup::{LoraTables, group_number, rank_block, tile_at};
use super::row_sum::fold_rows;
use super::vectors::{lane_dot, lane_sum};
use crate::lora_index::RANK_STEP;

/// Inputs that one pass of SGMV brings into shared memory.
const INPUT_CHUNK: usize = 32;
/// Units of an SGMV workgroup.
pub(crate) const SGMV_UNITS: usize = 64;

/// Compile-time shape of [`sgmv_shrink`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SgmvShape {
    /// Rows of a tile: 16 or 64.
    pub(crate) tile_rows: usize,
    /// Hidden columns a workgroup computes: 8, 16 or 32.
    pub(crate) rank_tile: usize,
}

/// SGMV: a workgroup computes `tile_rows` rows of one adapter by `rank_tile` hidden columns.
///
/// Grid: x (and z) tiles, y blocks of `rank_tile` columns. `x` is `[T, inputs]`, `h` is `[T, hidden_width]`.
#[cube(launch)]
pub(crate) fn sgmv_shrink<F: Float, N: Size>(
    x: &[Vector<F, N>],
    arena: &[Vector<F, N>],
    tables: &LoraTables,
    h: &mut [f32],
    inputs: u32,
    #[comptime] shape: SgmvShape,
    #[define(F)] _dtype: ElemType,
    #[define(N)] _lanes: usize,
) {
    let tile_rows = comptime!(shape.tile_rows);
    let rank_tile = comptime!(shape.rank_tile);
    let lanes = N::value();
    let chunk = comptime!(INPUT_CHUNK / lanes);
    // One more than the chunk, so that neighbouring rows begin in different banks.
    let stride = comptime!(chunk + 1);
    let unit_rows = comptime!(tile_rows / 16);
    let unit_columns = comptime!(rank_tile / 4);
    let blocks = comptime!(rank_tile / RANK_STEP);

    let unit = UNIT_POS as usize;
    let inputs = inputs as usize;
    let vectors = inputs / lanes;
    let tile = tile_at(tables, group_number());
    let first_block = CUBE_POS_Y as usize * blocks;

    let mut block_a = Shared::<[u32]>::new_slice(blocks);
    let mut block_ranks = Shared::<[u32]>::new_slice(blocks);
    if unit < blocks {
        let block = rank_block(tables, tile.adapter, first_block + unit, inputs);
        block_a[unit] = (block.a / lanes) as u32;
        block_ranks[unit] = block.ranks as u32;
    }
    let mut xs = Shared::<[Vector<f32, N>]>::new_slice(comptime!(tile_rows * stride));
    let mut aa = Shared::<[Vector<f32, N>]>::new_slice(comptime!(rank_tile * stride));
    let mut sums = Array::<f32>::new(comptime!(unit_rows * unit_columns));
    #[unroll]
    for i in 0..comptime!(unit_rows * unit_columns) {
        sums[i] = 0.0f32;
    }
    sync_cube();

    let first_row = unit / 4 * unit_rows;
    let first_column = unit % 4 * unit_columns;
    for pass in 0..vectors.div_ceil(chunk) {
        let from = pass * chunk;
        let mut i = unit;
        while i < comptime!(tile_rows * chunk) {
            let row = i / chunk;
            let k = from + i % chunk;
            let mut value = Vector::<f32, N>::new(0.0f32);
            if row < tile.rows && k < vectors {
                value = Vector::<f32, N>::cast_from(x[(tile.first_row + row) * vectors + k]);
            }
            xs[row * stride + i % chunk] = value;
            i += SGMV_UNITS;
        }
        let mut i = unit;
        while i < comptime!(rank_tile * chunk) {
            let column = i / chunk;
            let k = from + i % chunk;
            let mut value = Vector::<f32, N>::new(0.0f32);
            let rank = column % RANK_STEP;
            if rank < block_ranks[column / RANK_STEP] as usize && k < vectors {
                let row = block_a[column / RANK_STEP] as usize + rank * vectors;
                value = Vector::<f32, N>::cast_from(arena[row + k]);
            }
            aa[column * stride + i % chunk] = value;
            i += SGMV_UNITS;
        }
        sync_cube();
        for k in 0..chunk {
            let mut left = Array::<Vector<f32, N>>::new(unit_rows);
            #[unroll]
            for i in 0..unit_rows {
                left[i] = xs[(first_row + i) * stride + k];
            }
            #[unroll]
            for j in 0..unit_columns {
                let right = aa[(first_column + j) * stride + k];
                #[unroll]
                for i in 0..unit_rows {
                    sums[i * unit_columns + j] += lane_dot::<N>(left[i], right);
                }
            }
        }
        sync_cube();
    }

    let hidden_width = tables.hidden_width as usize;
    #[unroll]
    for j in 0..unit_columns {
        let column = first_column + j;
        if block_ranks[column / RANK_STEP] > 0 {
            let at = first_block * RANK_STEP + column;
            #[unroll]
            for i in 0..unit_rows {
                if first_row + i < tile.rows {
                    h[(tile.first_row + first_row + i) * hidden_width + at] = sums[i * unit_columns + j];
                }
            }
        }
    }
}

/// BGMV: a workgroup computes one row by [`RANK_STEP`] hidden columns, its units side by side along the inputs, so that
/// each `A` row is read in one sweep.
///
/// Grid: x (and z) tiles of one row, y blocks of [`RANK_STEP`] columns.
#[cube(launch)]
pub(crate) fn bgmv_shrink<F: Float, N: Size>(
    x: &[Vector<F, N>],
    arena: &[Vector<F, N>],
    tables: &LoraTables,
    h: &mut [f32],
    inputs: u32,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
    #[define(N)] _lanes: usize,
) {
    let lanes = N::value();
    let unit = UNIT_POS as usize;
    let inputs = inputs as usize;
    let vectors = inputs / lanes;
    let tile = tile_at(tables, group_number());
    let block = rank_block(tables, tile.adapter, CUBE_POS_Y as usize, inputs);
    let live = select(tile.rows > 0, block.ranks, 0);

    let mut parts = Array::<Vector<f32, N>>::new(RANK_STEP);
    #[unroll]
    for j in 0..RANK_STEP {
        parts[j] = Vector::<f32, N>::new(0.0f32);
    }
    if live > 0 {
        let a = block.a / lanes;
        let mut k = unit;
        while k < vectors {
            let value = Vector::<f32, N>::cast_from(x[tile.first_row * vectors + k]);
            #[unroll]
            for j in 0..RANK_STEP {
                // Ranks that do not exist read the last one's values, which are there; their sums are dropped.
                let row = min(j, live - 1);
                parts[j] += value * Vector::<f32, N>::cast_from(arena[a + row * vectors + k]);
            }
            k += units;
        }
    }

    let mut scratch = Shared::<[f32]>::new_slice(comptime!(RANK_STEP * units));
    #[unroll]
    for j in 0..RANK_STEP {
        scratch[j * units + unit] = lane_sum::<N>(parts[j]);
    }
    fold_rows(&mut scratch, RANK_STEP, units);
    if unit < RANK_STEP && live > 0 {
        let at = tile.first_row * tables.hidden_width as usize + CUBE_POS_Y as usize * RANK_STEP + unit;
        h[at] = select(unit < live, scratch[unit * units], 0.0f32);
    }
}
