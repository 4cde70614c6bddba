//! Sequences cut into tiles of queries: what one workgroup of the attention kernel takes.

/// Numbers a tile: first query row, first and one past the last row of its sequence.
pub const QUERY_FIELDS: usize = 3;
/// Most queries of a tile. Kernels with smaller tiles walk through it in several workgroups.
pub const QUERY_ROWS: usize = 32;

/// `[tiles * 3]` i32 for sequences with bounds `cu_seqlens`, `[B + 1]`.
pub fn query_tiles(cu_seqlens: &[u32]) -> Vec<i32> {
    let mut tiles = vec![];
    for bounds in cu_seqlens.windows(2) {
        for first in (bounds[0]..bounds[1]).step_by(QUERY_ROWS) {
            tiles.extend([first as i32, bounds[0] as i32, bounds[1] as i32]);
        }
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_query_is_in_one_tile_with_the_bounds_of_its_sequence(
            lengths in proptest::collection::vec(0u32..200, 0..12),
        ) {
            let bounds: Vec<u32> = std::iter::once(0).chain(lengths.iter().scan(0, |at, len| {
                *at += len;
                Some(*at)
            })).collect();
            let mut seen = vec![0; bounds[bounds.len() - 1] as usize];
            for tile in query_tiles(&bounds).chunks(QUERY_FIELDS) {
                let [first, start, end] = [0, 1, 2].map(|i| tile[i] as usize);
                let sequence = bounds.windows(2).find(|b| b[0] < b[1] && (b[0] as usize..b[1] as usize).contains(&first));
                prop_assert_eq!(sequence.map(|b| (b[0] as usize, b[1] as usize)), Some((start, end)));
                (first..end.min(first + QUERY_ROWS)).for_each(|row| seen[row] += 1);
            }
            prop_assert!(seen.iter().all(|n| *n == 1));
        }
    }
}
