//! Which of a block's rows are computed together, and whose they are.

use super::Layer;
use super::block::Block;
use crate::lora::{LoraSegment, segments_in};
use crate::packed_lora::LastExpand;

/// Rows with the same adapter that are worth a tile of their own.
const FEW_ALIKE: usize = 6;

/// Rows that a panel meets together.
pub(super) struct RowTile<'s> {
    /// The first, counted from the block's first.
    pub at: usize,
    /// How many.
    pub rows: usize,
    /// Whose they are.
    pub adapters: Adapters<'s>,
    /// A packed adapter's part of the last panel.
    pub last: LastExpand,
}

/// Whose rows some rows are.
pub(super) enum Adapters<'s> {
    /// All the base's.
    None,
    /// All of one adapter.
    One(&'s LoraSegment<'s>),
    /// Of several adapters, or of one and the base.
    Several,
}

impl<E> Layer<'_, E> {
    /// Cuts a block's rows into tiles.
    pub(super) fn row_tiles(&self, block: &Block) -> Vec<RowTile<'_>> {
        let count = block.rows.len();
        let mut tiles = Vec::with_capacity(count / self.kernel.max_rows() + 1);
        let mut at = 0;
        while at < count {
            let first = block.rows.start + at;
            let next = segments_in(self.call.lora, first..block.rows.end).next();
            let until = match &next {
                Some((part, _)) if part.start > first => part.start,
                Some((part, _)) => part.end,
                None => block.rows.end,
            };
            let rows = self.tile_rows(until - first, (at, count));
            let adapters = match next {
                Some((part, _)) if part.start >= first + rows => Adapters::None,
                Some((part, segment)) if part.start == first && part.end >= first + rows => {
                    Adapters::One(segment)
                }
                Some(_) => Adapters::Several,
                None => Adapters::None,
            };
            tiles.push(RowTile { at, rows, adapters, last: LastExpand::default() });
            at += rows;
        }
        tiles
    }

    /// Rows of the tile that begins at row `at` of `count`, of which the first `alike` have the same adapter, or none. Where the expand
    /// can follow in registers, a tile holds no more than one adapter's rows if these are some.
    fn tile_rows(&self, alike: usize, (at, count): (usize, usize)) -> usize {
        if !self.in_registers || alike < FEW_ALIKE {
            return self.kernel.rows_of(count, at);
        }
        self.kernel.rows_of(alike, 0)
    }
}
