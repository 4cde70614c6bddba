//! Attention over packed rows with online softmax (Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv
//! 2205.14135): scores never leave the workgroup.

use cubecl::prelude::*;

use super::attention_tile::{add_values, scores};
use super::lookup::group_number;
use crate::query_tiles::{QUERY_FIELDS, QUERY_ROWS};

/// Compile-time shape of [`attention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AttentionShape {
    /// Queries, and keys, that a workgroup holds at once: 4, 8, 16 or 32.
    pub(crate) block: usize,
    /// Room for one head's columns in shared memory; heads may be narrower.
    pub(crate) head_room: usize,
    /// Units a side: they form a square over queries and keys.
    pub(crate) side: usize,
}

/// `softmax(scale q k^T) v`; `qkv` is `[T, 3 heads width]`; from `tiles_at` on, `index` has
/// `tile_count` tiles as `query_tiles.rs` says; `out` `[T, heads width]`.
///
/// Grid: x (and z) blocks of queries, y heads.
#[cube(launch)]
pub(crate) fn attention<F: Float>(
    qkv: &[F],
    index: &[i32],
    out: &mut [F],
    heads: u32,
    width: u32,
    scale: f32,
    tiles_at: u32,
    tile_count: u32,
    #[comptime] shape: AttentionShape,
    #[define(F)] _dtype: ElemType,
) {
    let block = comptime!(shape.block);
    let side = comptime!(shape.side);
    let each = comptime!(block / side);
    let room = comptime!(shape.head_room);
    let columns = comptime!(room.div_ceil(side));
    // One more than a row, so that neighbouring rows begin in different banks.
    let row_stride = comptime!(room + 1);
    let score_stride = comptime!(block + 1);
    let parts = comptime!(QUERY_ROWS / block);

    let width = width as usize;
    let out_stride = heads as usize * width;
    let in_stride = 3 * out_stride;
    let head = CUBE_POS_Y as usize * width;
    let group = group_number();
    let inside = group / parts < tile_count as usize;
    let at = tiles_at as usize + select(inside, group / parts, 0) * QUERY_FIELDS;
    let start = index[at + 1] as usize;
    let end = index[at + 2] as usize;
    let first = min(index[at] as usize + group % parts * block, end);
    let queries = select(inside, min(end - first, block), 0);
    let keys = select(queries > 0, end - start, 0);

    let unit = UNIT_POS as usize;
    let unit_row = unit / side;
    let unit_column = unit % side;

    let mut qs = Shared::<[f32]>::new_slice(comptime!(block * row_stride));
    // Keys first, then the values of the same rows.
    let mut kv = Shared::<[f32]>::new_slice(comptime!(block * row_stride));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(block * score_stride));
    let mut rescale = Shared::<[f32]>::new_slice(block);
    let mut total = Shared::<[f32]>::new_slice(block);
    let mut highest = f32::new(-3.0e38);
    let mut sum = 0.0f32;

    let at = first * in_stride + head;
    stage_head(qkv, at, in_stride, queries, width, scale, &mut qs, shape);
    let mut context = Array::<f32>::new(comptime!(each * columns));
    #[unroll]
    for i in 0..comptime!(each * columns) {
        context[i] = 0.0f32;
    }

    for pass in 0..keys.div_ceil(block) {
        let from = start + pass * block;
        let live = min(end - from, block);
        let at = from * in_stride + out_stride + head;
        stage_head(qkv, at, in_stride, live, width, 1.0f32, &mut kv, shape);
        sync_cube();
        scores(&qs, &kv, &mut weights, shape);
        sync_cube();

        // One unit a query keeps the running maximum and sum.
        if unit < block {
            let row = unit * score_stride;
            let mut most = highest;
            for key in 0..live {
                most = max(most, weights[row + key]);
            }
            let factor = f32::exp(highest - most);
            let mut added = 0.0f32;
            for key in 0..block {
                let mut weight = 0.0f32;
                if key < live {
                    weight = f32::exp(weights[row + key] - most);
                }
                weights[row + key] = weight;
                added += weight;
            }
            sum = sum * factor + added;
            highest = most;
            rescale[unit] = factor;
            total[unit] = sum;
        }
        // The keys have been read: their room is the values'.
        let at = from * in_stride + 2 * out_stride + head;
        stage_head(qkv, at, in_stride, live, width, 1.0f32, &mut kv, shape);
        sync_cube();
        add_values(&weights, &rescale, &kv, &mut context, shape);
        sync_cube();
    }

    #[unroll]
    for r in 0..each {
        let row = unit_row + r * side;
        if row < queries {
            let inverse = 1.0f32 / total[row];
            #[unroll]
            for c in 0..columns {
                let column = unit_column + c * side;
                if column < width {
                    out[(first + row) * out_stride + head + column] =
                        F::cast_from(context[r * columns + c] * inverse);
                }
            }
        }
    }
}

/// One head's columns of `rows` rows into shared memory, times `factor`, with zeros for rows and columns that are not there.
/// `from` is the first row's first column in `qkv`, whose rows are `stride` apart.
#[cube]
#[allow(clippy::too_many_arguments)]
fn stage_head<F: Float>(
    qkv: &[F],
    from: usize,
    stride: usize,
    rows: usize,
    width: usize,
    factor: f32,
    into: &mut Shared<[f32]>,
    #[comptime] shape: AttentionShape,
) {
    let room = comptime!(shape.head_room);
    let mut i = UNIT_POS as usize;
    while i < comptime!(shape.block * room) {
        let row = i / room;
        let column = i % room;
        let mut value = 0.0f32;
        if row < rows && column < width {
            value = f32::cast_from(qkv[from + row * stride + column]) * factor;
        }
        into[row * comptime!(room + 1) + column] = value;
        i += comptime!(shape.side * shape.side);
    }
}
