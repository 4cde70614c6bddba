//! Segments cut into tiles: what one workgroup of a LoRA kernel takes.

use crate::segments::Segment;

/// Most rows of a tile; the kernels are compiled for these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileRows {
    /// One row: BGMV, the shape of decoding and of single short texts through many adapters.
    One,
    /// 16 rows: SGMV over short segments.
    Sixteen,
    /// 64 rows: SGMV over long segments.
    SixtyFour,
}

impl TileRows {
    /// Every height.
    pub const ALL: [TileRows; 3] = [TileRows::One, TileRows::Sixteen, TileRows::SixtyFour];

    /// As a number.
    pub const fn count(self) -> usize {
        match self {
            TileRows::One => 1,
            TileRows::Sixteen => 16,
            TileRows::SixtyFour => 64,
        }
    }

    /// The height for segments whose mean length is `rows / segments`: tall tiles read an adapter's values once for
    /// many rows, and are mostly empty over short segments.
    fn for_mean(rows: usize, segments: usize) -> Self {
        match rows.checked_div(segments).unwrap_or(0) {
            0..4 => TileRows::One,
            4..48 => TileRows::Sixteen,
            _ => TileRows::SixtyFour,
        }
    }
}

/// Rows of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// First packed row.
    pub first_row: usize,
    /// Number of rows, at least 1.
    pub rows: usize,
    /// Index into the batch's adapters; `None` for rows of the base model.
    pub adapter: Option<usize>,
}

/// The tiles of one batch: those with an adapter first, so that kernels for adapters alone need not look at the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TilePlan {
    /// Most rows of a tile.
    pub tile_rows: TileRows,
    /// The tiles.
    pub tiles: Vec<Tile>,
    /// How many of them, from the first on, have an adapter.
    pub with_adapter: usize,
}

impl TilePlan {
    /// Cuts `segments`, which are in order and disjoint, into tiles that fit their lengths.
    pub fn new(segments: &[Segment]) -> Self {
        let adapted = || segments.iter().filter(|s| s.adapter.is_some());
        let rows = adapted().map(|s| s.rows.len()).sum();
        Self::with_height(segments, TileRows::for_mean(rows, adapted().count()))
    }

    /// Cuts `segments` into tiles of at most `tile_rows`.
    pub fn with_height(segments: &[Segment], tile_rows: TileRows) -> Self {
        let height = tile_rows.count();
        let cut = |segment: &Segment| {
            let (rows, adapter) = (segment.rows.clone(), segment.adapter);
            rows.clone().step_by(height).map(move |first_row| Tile {
                first_row,
                rows: height.min(rows.end - first_row),
                adapter,
            })
        };
        let (adapted, base): (Vec<_>, Vec<_>) = segments.iter().partition(|s| s.adapter.is_some());
        let mut tiles: Vec<Tile> = adapted.into_iter().flat_map(cut).collect();
        let with_adapter = tiles.len();
        tiles.extend(base.into_iter().flat_map(cut));
        Self { tile_rows, tiles, with_adapter }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segments::segments_of;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tiles_partition_the_rows_and_never_cross_a_segment(
            sequences in proptest::collection::vec((0usize..150, proptest::option::of(0usize..5)), 0..20),
            height in 0usize..3,
        ) {
            let segments = segments_of(sequences.clone());
            let owners: Vec<Option<usize>> =
                sequences.iter().flat_map(|(len, adapter)| vec![*adapter; *len]).collect();
            for plan in [TilePlan::new(&segments), TilePlan::with_height(&segments, TileRows::ALL[height])] {
                let mut seen = vec![0; owners.len()];
                for (i, tile) in plan.tiles.iter().enumerate() {
                    prop_assert!((1..=plan.tile_rows.count()).contains(&tile.rows));
                    prop_assert_eq!(tile.adapter.is_some(), i < plan.with_adapter);
                    for row in tile.first_row..tile.first_row + tile.rows {
                        prop_assert_eq!(owners[row], tile.adapter);
                        seen[row] += 1;
                    }
                }
                prop_assert!(seen.iter().all(|n| *n == 1));
            }
        }
    }

    #[test]
    fn the_height_follows_the_adapted_segments() {
        let plan = |lengths: &[(usize, Option<usize>)]| {
            TilePlan::new(&segments_of(lengths.iter().copied())).tile_rows
        };
        assert_eq!(plan(&[(1, Some(0)), (1, Some(1)), (500, None)]), TileRows::One);
        assert_eq!(plan(&[(16, Some(0)), (9, Some(1))]), TileRows::Sixteen);
        assert_eq!(plan(&[(1000, Some(0)), (1, Some(1))]), TileRows::SixtyFour);
        assert_eq!(plan(&[]), TileRows::One);
    }
}
