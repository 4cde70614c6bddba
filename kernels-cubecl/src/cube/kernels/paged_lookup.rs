//! How attention finds a sequence's keys and values: through the batch's numbers (`paged_index.rs`).

use cubecl::prelude::*;

/// The heads of an attention, and what its rows see.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct PagedShape {
    /// Heads of queries.
    pub(crate) query: u32,
    /// Heads of keys, and of values.
    pub(crate) kv: u32,
    /// Columns of a head.
    pub(crate) width: u32,
    /// Factor on the scores.
    pub(crate) scale: f32,
    /// Tokens a block.
    pub(crate) block_size: u32,
    /// Positions that a row sees at most, its own included.
    pub(crate) window: u32,
}

/// The first position that the row at `position` sees.
#[cube]
pub(crate) fn first_seen(shape: &PagedShape, position: usize) -> usize {
    position + 1 - min(position + 1, shape.window as usize)
}

/// Where the keys and values of a position lie, in tokens; the sequence's table begins at `table` of `index`.
#[cube]
pub(crate) fn slot_of(index: &[i32], table: usize, position: usize, block_size: usize) -> usize {
    index[table + position / block_size] as usize * block_size + position % block_size
}
