//! Causal attention of a prompt's rows to the keys of their sequence, with online softmax (Milakov and Gimelshein, arXiv
//! 1805.02867; Dao et al., arXiv 2205.14135): scores never leave the workgroup.

use cubecl::prelude::*;

use super::attention::AttentionShape;
use super::attention_tile::{add_values, scores};
use super::lookup::group_number;
use super::paged_lookup::{PagedShape, first_seen, slot_of};
use crate::paged_index::PROMPT_FIELDS;

/// `softmax(scale q k^T) v` of a block of rows. A row is a position and one of the heads of queries that share a head of keys:
/// those of one position follow one another.
///
/// `q` and `out` are `[T, query width]`, `cache` is `[slots, 2 kv width]`; from `tiles_at` on, `index` has `tile_count` tiles as
/// `paged_index.rs` says, each of `parts` blocks. Grid: x (and z) blocks of rows, y heads of keys.
#[cube(launch)]
pub(crate) fn attention_prompt<F: Float>(
    q: &[F],
    cache: &[F],
    index: &[i32],
    out: &mut [F],
    heads: &PagedShape,
    tiles_at: u32,
    tile_count: u32,
    parts: u32,
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

    let width = heads.width as usize;
    let sharing = (heads.query / heads.kv) as usize;
    let head = CUBE_POS_Y as usize;
    let group = group_number();
    let inside = group / (parts as usize) < tile_count as usize;
    let at = tiles_at as usize + select(inside, group / parts as usize, 0) * PROMPT_FIELDS;
    let first_row = index[at] as usize;
    let first_position = index[at + 2] as usize;
    let table = index[at + 3] as usize;
    let rows = index[at + 1] as usize * sharing;
    let first = min(group % parts as usize * block, rows);
    let queries = select(inside, min(rows - first, block), 0);
    // What the rows see begins and ends the later, the later their position is.
    let low = first_seen(heads, first_position + first / sharing);
    let end = select(queries > 0, first_position + (first + max(queries, 1) - 1) / sharing + 1, 0);
    let start = low / block * block;

    let unit = UNIT_POS as usize;
    let unit_row = unit / side;
    let unit_column = unit % side;

    let mut qs = Shared::<[f32]>::new_slice(comptime!(block * row_stride));
    // Keys first, then the values of the same positions.
    let mut kv = Shared::<[f32]>::new_slice(comptime!(block * row_stride));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(block * score_stride));
    let mut rescale = Shared::<[f32]>::new_slice(block);
    let mut total = Shared::<[f32]>::new_slice(block);
    let mut highest = f32::new(-3.0e38);
    let mut sum = 0.0f32;

    let mut i = unit;
    while i < comptime!(block * room) {
        let row = i / room;
        let column = i % room;
        let mut value = 0.0f32;
        if row < queries && column < width {
            let at = (first_row + (first + row) / sharing) * heads.query as usize
                + head * sharing
                + (first + row) % sharing;
            value = f32::cast_from(q[at * width + column]) * heads.scale;
        }
        qs[row * row_stride + column] = value;
        i += comptime!(side * side);
    }
    let mut context = Array::<f32>::new(comptime!(each * columns));
    #[unroll]
    for i in 0..comptime!(each * columns) {
        context[i] = 0.0f32;
    }

    for pass in 0..select(queries > 0, end - min(start, end), 0).div_ceil(block) {
        let from = start + pass * block;
        let keys = Keys { table, from, low, end };
        stage_rows(cache, index, heads, keys, head, &mut kv, shape);
        sync_cube();
        scores(&qs, &kv, &mut weights, shape);
        sync_cube();

        // One unit a row keeps the running maximum and sum.
        if unit < block {
            let row = unit * score_stride;
            let position = first_position + (first + unit) / sharing;
            let first_key = first_seen(heads, position);
            let mut most = highest;
            for key in 0..block {
                if from + key >= first_key && from + key <= position {
                    most = max(most, weights[row + key]);
                }
            }
            let factor = f32::exp(highest - most);
            let mut added = 0.0f32;
            for key in 0..block {
                let mut weight = 0.0f32;
                if from + key >= first_key && from + key <= position {
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
        stage_rows(cache, index, heads, keys, head + heads.kv as usize, &mut kv, shape);
        sync_cube();
        add_values(&weights, &rescale, &kv, &mut context, shape);
        sync_cube();
    }

    #[unroll]
    for r in 0..each {
        let row = unit_row + r * side;
        if row < queries {
            let inverse = 1.0f32 / total[row];
            let at = (first_row + (first + row) / sharing) * heads.query as usize
                + head * sharing
                + (first + row) % sharing;
            #[unroll]
            for c in 0..columns {
                let column = unit_column + c * side;
                if column < width {
                    out[at * width + column] = F::cast_from(context[r * columns + c] * inverse);
                }
            }
        }
    }
}

/// Some positions of a sequence.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Keys {
    /// Where the sequence's table begins.
    table: usize,
    /// The first position.
    from: usize,
    /// Before this none is read.
    low: usize,
    /// From this on none is read.
    end: usize,
}

/// One head's columns of a block of positions into shared memory, with zeros for positions and columns that are not there.
/// `head` is that of the cache: keys' heads, then values'.
#[cube]
fn stage_rows<F: Float>(
    cache: &[F],
    index: &[i32],
    heads: &PagedShape,
    keys: Keys,
    head: usize,
    into: &mut Shared<[f32]>,
    #[comptime] shape: AttentionShape,
) {
    let room = comptime!(shape.head_room);
    let width = heads.width as usize;
    let mut i = UNIT_POS as usize;
    while i < comptime!(shape.block * room) {
        let position = keys.from + i / room;
        let column = i % room;
        let mut value = 0.0f32;
        if position >= keys.low && position < keys.end && column < width {
            let slot = slot_of(index, keys.table, position, heads.block_size as usize);
            value = f32::cast_from(cache[(slot * 2 * heads.kv as usize + head) * width + column]);
        }
        into[i / room * comptime!(room + 1) + column] = value;
        i += comptime!(shape.side * shape.side);
    }
}
