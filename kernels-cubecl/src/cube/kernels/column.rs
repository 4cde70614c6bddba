//! The end of a linear layer for one vector of columns: `activation(g (W x) + B h + bias) + residual`, with `W x` computed
//! before.

use cubecl::prelude::*;

use super::activation::activated;
use super::lookup::{LoraTables, SPAN_FIELDS, TileRef, padded, slot_at};
use crate::Activation;
use crate::extent::EXTENT_ALIGN;
use crate::lora_index::RANK_STEP;

/// Hidden values are read in vectors of this many: [`RANK_STEP`] is a multiple of it.
pub(crate) const HIDDEN_LANES: usize = 4;

/// Compile-time choices of what follows a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ColumnShape {
    /// Rows a workgroup takes at once: 1 or 4.
    pub(crate) rows: usize,
    /// Whether adapters take part.
    pub(crate) lora: bool,
    /// Whether the layer has a bias.
    pub(crate) bias: bool,
    /// Activation after the bias.
    pub(crate) activation: Activation,
    /// Whether a residual is added at the end.
    pub(crate) residual: bool,
}

/// The rows that one workgroup takes of a tile.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct RowBlock {
    /// First packed row.
    pub(crate) first: usize,
    /// How many rows there are; the others of the block are not there.
    pub(crate) rows: usize,
    /// Their adapter, or -1.
    pub(crate) adapter: i32,
}

/// Block `number` of a tile, of `height` rows.
#[cube]
pub(crate) fn row_block(tile: TileRef, number: usize, #[comptime] height: usize) -> RowBlock {
    let skipped = min(number * height, tile.rows);
    RowBlock {
        first: tile.first_row + skipped,
        rows: min(tile.rows - skipped, height),
        adapter: tile.adapter,
    }
}

/// Columns `column .. column + N` of the block's rows: one vector a row. `vectors` is the width of the layer in vectors.
///
/// The block has at least one row. `residual` is `[T, outputs]`, `bias` `[outputs]`, `arena` the adapters' values, `hidden`
/// `[T, hidden_width]`; what `shape` says is not there is not read.
#[cube]
// The outer `if` is decided when the kernel is compiled, the inner one when it runs.
#[allow(clippy::too_many_arguments, clippy::collapsible_if)]
pub(crate) fn finished_column<F: Float, N: Size>(
    product: &mut [Vector<F, N>],
    residual: &[Vector<F, N>],
    bias: &[Vector<F, N>],
    arena: &[Vector<F, N>],
    hidden: &[Vector<f32, Const<HIDDEN_LANES>>],
    tables: &LoraTables,
    block: RowBlock,
    column: usize,
    vectors: usize,
    #[comptime] shape: ColumnShape,
) -> Array<Vector<f32, N>> {
    let lanes = N::value();
    let rows = comptime!(shape.rows);
    // Rows that are not there compute what the last one does: no branch stands between the loads.
    let last = block.rows - 1;
    let mut sums = Array::<Vector<f32, N>>::new(rows);
    #[unroll]
    for row in 0..rows {
        let at = (block.first + min(row, last)) * vectors + column / lanes;
        sums[row] = Vector::<f32, N>::cast_from(product[at]);
    }
    let mut offset = Vector::<f32, N>::new(0.0f32);
    if comptime!(shape.bias) {
        offset = Vector::<f32, N>::cast_from(bias[column / lanes]);
    }
    if comptime!(shape.lora) {
        if block.adapter >= 0 {
            let hidden_width = tables.hidden_width as usize / HIDDEN_LANES;
            let mut hidden_rows = Array::<usize>::new(rows);
            #[unroll]
            for row in 0..rows {
                hidden_rows[row] = (block.first + min(row, last)) * hidden_width;
            }
            let mut first_hidden = 0usize;
            for span in 0..tables.span_count as usize {
                let slot = slot_at(tables, block.adapter, span);
                let start = tables.spans[span * SPAN_FIELDS + 1] as usize;
                let stop = tables.spans[span * SPAN_FIELDS + 2] as usize;
                if column >= start && column < stop {
                    let within = column - start;
                    if slot.gain >= 0 {
                        let at = slot.gain as usize * EXTENT_ALIGN + within;
                        let gain = Vector::<f32, N>::cast_from(arena[at / lanes]);
                        #[unroll]
                        for row in 0..rows {
                            sums[row] *= gain;
                        }
                    }
                    if slot.bias >= 0 {
                        let at = slot.bias as usize * EXTENT_ALIGN + within;
                        offset = Vector::<f32, N>::cast_from(arena[at / lanes]);
                    }
                    let width = (stop - start) / lanes;
                    let b = (slot.b + within) / lanes;
                    let mut rank = 0usize;
                    while rank < slot.rank {
                        #[unroll]
                        for part in 0..comptime!(RANK_STEP / HIDDEN_LANES) {
                            let mut lefts = Array::<Vector<f32, Const<HIDDEN_LANES>>>::new(rows);
                            let at = (first_hidden + rank) / HIDDEN_LANES + part;
                            #[unroll]
                            for row in 0..rows {
                                lefts[row] = hidden[hidden_rows[row] + at];
                            }
                            #[unroll]
                            for j in 0..HIDDEN_LANES {
                                // Beyond the last rank the hidden values are zero; the last rank's values are finite.
                                let at = min(rank + part * HIDDEN_LANES + j, slot.rank - 1);
                                let value = Vector::<f32, N>::cast_from(arena[b + at * width]);
                                #[unroll]
                                for row in 0..rows {
                                    sums[row] += Vector::<f32, N>::new(lefts[row].extract(j)) * value;
                                }
                            }
                        }
                        rank += RANK_STEP;
                    }
                }
                first_hidden += padded(slot.rank);
            }
        }
    }
    #[unroll]
    for row in 0..rows {
        sums[row] = activated::<N>(sums[row] + offset, shape.activation);
        if comptime!(shape.residual) {
            let at = (block.first + min(row, last)) * vectors + column / lanes;
            sums[row] += Vector::<f32, N>::cast_from(residual[at]);
        }
    }
    sums
}
