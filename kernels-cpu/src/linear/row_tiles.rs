//! Which of a block's rows are computed together, and whose they are.

use std::cell::Cell;

use super::Layer;
use super::block::Block;
use crate::packed_lora::LastExpand;

/// Rows with the same adapter that are worth a tile of their own.
const FEW_ALIKE: usize = 6;

/// Rows that a panel meets together.
pub(super) struct RowTile {
    /// The first, counted from the block's first.
    pub at: usize,
    /// How many.
    pub rows: usize,
    /// Whose they are.
    pub adapters: Adapters,
    /// A packed adapter's part of the last panel.
    pub last_expand: LastExpand,
}

/// Whose rows some rows are.
pub(super) enum Adapters {
    /// All the base's.
    None,
    /// All of one of the call's segments.
    One(usize),
    /// Of several adapters, or of one and the base.
    Several,
}

thread_local! {
    /// Room for a thread's tiles, kept from call to call.
    pub(super) static TILES: Cell<Vec<RowTile>> = const { Cell::new(Vec::new()) };
}

impl<E> Layer<'_, E> {
    /// Cuts a block's rows into tiles, written over `tiles`.
    pub(super) fn cut_rows(&self, block: &Block, tiles: &mut Vec<RowTile>) {
        tiles.clear();
        let (lora, count) = (self.call.lora, block.rows.len());
        let mut at = 0;
        while at < count {
            let first = block.rows.start + at;
            // The first segment that ends behind this row; one without rows among those that follow only makes a tile shorter.
            let index = lora.partition_point(|s| s.rows.end <= first);
            let next = lora.get(index).map_or(block.rows.end..block.rows.end, |s| s.rows.clone());
            let until = if next.start > first { next.start } else { next.end };
            let rows = self.tile_rows(until.min(block.rows.end) - first, (at, count));
            let adapters = match first + rows {
                end if next.start >= end => Adapters::None,
                end if next.start <= first && next.end >= end => Adapters::One(index),
                _ => Adapters::Several,
            };
            tiles.push(RowTile { at, rows, adapters, last_expand: LastExpand::default() });
            at += rows;
        }
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
