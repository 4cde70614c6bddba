//! The two products of attention with online softmax over a tile: a block of queries by a block of keys.

use cubecl::prelude::*;

use super::attention::AttentionShape;

/// `queries keys^T`, both `[block, room + 1]`, into `weights`, `[block, block + 1]`: each unit a square of `block / side` rows
/// and columns, every `side`-th of them.
#[cube]
pub(crate) fn scores(
    queries: &Shared<[f32]>,
    keys: &Shared<[f32]>,
    weights: &mut Shared<[f32]>,
    #[comptime] shape: AttentionShape,
) {
    let side = comptime!(shape.side);
    let each = comptime!(shape.block / side);
    let room = comptime!(shape.head_room);
    let row_stride = comptime!(room + 1);
    let score_stride = comptime!(shape.block + 1);
    let unit_row = UNIT_POS as usize / side;
    let unit_column = UNIT_POS as usize % side;

    let mut sums = Array::<f32>::new(comptime!(each * each));
    #[unroll]
    for i in 0..comptime!(each * each) {
        sums[i] = 0.0f32;
    }
    for column in 0..room {
        let mut left = Array::<f32>::new(each);
        #[unroll]
        for r in 0..each {
            left[r] = queries[(unit_row + r * side) * row_stride + column];
        }
        #[unroll]
        for c in 0..each {
            let right = keys[(unit_column + c * side) * row_stride + column];
            #[unroll]
            for r in 0..each {
                sums[r * each + c] += left[r] * right;
            }
        }
    }
    #[unroll]
    for r in 0..each {
        #[unroll]
        for c in 0..each {
            let column = unit_column + c * side;
            weights[(unit_row + r * side) * score_stride + column] = sums[r * each + c];
        }
    }
}

/// `context = rescale context + weights values`, with `weights` as [`scores`] leaves them, `values` `[block, room + 1]` and a
/// factor a row in `rescale`. Each unit has `block / side` rows and `room / side` columns, rounded up, of `context`.
#[cube]
pub(crate) fn add_values(
    weights: &Shared<[f32]>,
    rescale: &Shared<[f32]>,
    values: &Shared<[f32]>,
    context: &mut Array<f32>,
    #[comptime] shape: AttentionShape,
) {
    let side = comptime!(shape.side);
    let each = comptime!(shape.block / side);
    let room = comptime!(shape.head_room);
    let columns = comptime!(room.div_ceil(side));
    let row_stride = comptime!(room + 1);
    let score_stride = comptime!(shape.block + 1);
    let unit_row = UNIT_POS as usize / side;
    let unit_column = UNIT_POS as usize % side;

    #[unroll]
    for r in 0..each {
        let factor = rescale[unit_row + r * side];
        #[unroll]
        for c in 0..columns {
            context[r * columns + c] *= factor;
        }
    }
    for key in 0..comptime!(shape.block) {
        let mut left = Array::<f32>::new(each);
        #[unroll]
        for r in 0..each {
            left[r] = weights[(unit_row + r * side) * score_stride + key];
        }
        #[unroll]
        for c in 0..columns {
            // Columns beyond the room are never written: any value does.
            let column = min(unit_column + c * side, room - 1);
            let right = values[key * row_stride + column];
            #[unroll]
            for r in 0..each {
                context[r * columns + c] += left[r] * right;
            }
        }
    }
}
