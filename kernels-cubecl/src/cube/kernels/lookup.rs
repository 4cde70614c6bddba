//! How a kernel finds an adapter's values: through the batch's index (`lora_index.rs`) and the layer's spans.

use cubecl::prelude::*;

use crate::extent::EXTENT_ALIGN;
use crate::lora_index::{RANK_STEP, SLOT_FIELDS, TILE_FIELDS};

/// Numbers a span: site, first column, one past the last column.
pub(crate) const SPAN_FIELDS: usize = 3;

/// The tables of one launch.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct LoraTables {
    /// Tiles, then slots; see `lora_index.rs`.
    pub(crate) index: Box<[i32]>,
    /// The spans of the layer's sites.
    pub(crate) spans: Box<[i32]>,
    /// Number of spans.
    pub(crate) span_count: u32,
    /// Number of tiles this launch runs over.
    pub(crate) tiles: u32,
    /// Where the slots begin in `index`.
    pub(crate) slots_at: u32,
    /// Sites a row of the slots has.
    pub(crate) sites: u32,
    /// Columns of the hidden values between shrink and expand.
    pub(crate) hidden_width: u32,
}

/// A tile as a kernel sees it; `rows` is 0 for workgroups beyond the last tile.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct TileRef {
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    /// -1 for rows of the base model.
    pub(crate) adapter: i32,
}

/// What an adapter brings to a span; positions in values from the arena's start.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct SlotRef {
    /// 0 where the adapter has no low-rank part.
    pub(crate) rank: usize,
    pub(crate) a: usize,
    pub(crate) b: usize,
    /// In units of `EXTENT_ALIGN` values; -1 without.
    pub(crate) gain: i32,
    /// Likewise.
    pub(crate) bias: i32,
}

/// The tile of that number.
#[cube]
pub(crate) fn tile_at(tables: &LoraTables, number: usize) -> TileRef {
    let inside = number < tables.tiles as usize;
    let at = select(inside, number, 0) * TILE_FIELDS;
    TileRef {
        first_row: tables.index[at] as usize,
        rows: select(inside, tables.index[at + 1] as usize, 0),
        adapter: tables.index[at + 2],
    }
}

/// What `adapter`, not -1, brings to the span of that number.
#[cube]
pub(crate) fn slot_at(tables: &LoraTables, adapter: i32, span: usize) -> SlotRef {
    let site = tables.spans[span * SPAN_FIELDS] as usize;
    // A layer may have sites beyond those that any adapter of the batch touches.
    let inside = site < tables.sites as usize;
    let row = adapter as usize * tables.sites as usize + select(inside, site, 0);
    let at = tables.slots_at as usize + row * SLOT_FIELDS;
    SlotRef {
        rank: select(inside, tables.index[at] as usize, 0),
        a: tables.index[at + 1] as usize * EXTENT_ALIGN,
        b: tables.index[at + 2] as usize * EXTENT_ALIGN,
        gain: select(inside, tables.index[at + 3], -1),
        bias: select(inside, tables.index[at + 4], -1),
    }
}

/// Columns of the hidden values that a rank takes.
#[cube]
pub(crate) fn padded(rank: usize) -> usize {
    rank.div_ceil(RANK_STEP) * RANK_STEP
}

/// A block of [`RANK_STEP`] hidden columns: whose ranks they are.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct RankBlock {
    /// The `A` row of the block's first rank, in values from the arena's start.
    pub(crate) a: usize,
    /// How many of its ranks exist; 0 for a block that no span has.
    pub(crate) ranks: usize,
}

/// The block of that number for `adapter`, whose inputs are `inputs` wide. All spans of a layer lie side by side: one
/// shrink serves them all.
#[cube]
pub(crate) fn rank_block(tables: &LoraTables, adapter: i32, number: usize, inputs: usize) -> RankBlock {
    let column = number * RANK_STEP;
    let mut a = 0usize;
    let mut ranks = 0usize;
    let mut start = 0usize;
    for span in 0..tables.span_count as usize {
        let slot = slot_at(tables, adapter, span);
        let end = start + padded(slot.rank);
        if column >= start && column < end {
            let first = column - start;
            a = slot.a + first * inputs;
            ranks = min(slot.rank - first, RANK_STEP);
        }
        start = end;
    }
    RankBlock { a, ranks }
}

/// The workgroup's number where more than 65,535 are spread over two dimensions (see `grid.rs`).
#[cube]
pub(crate) fn group_number() -> usize {
    CUBE_POS_X as usize + CUBE_POS_Z as usize * CUBE_COUNT_X as usize
}
