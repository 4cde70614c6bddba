//! Runs of rows with the same adapter.

use std::ops::Range;

/// Consecutive packed rows with the same adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The rows.
    pub rows: Range<usize>,
    /// Index into the batch's adapters; `None` for rows of the base model.
    pub adapter: Option<usize>,
}

/// The segments of a packed batch: `sequences` gives each sequence's length in rows and its adapter. Empty sequences
/// vanish, neighbours with the same adapter become one segment, and the segments cover all rows.
pub fn segments_of(sequences: impl IntoIterator<Item = (usize, Option<usize>)>) -> Vec<Segment> {
    let mut segments: Vec<Segment> = vec![];
    let mut row = 0;
    for (len, adapter) in sequences {
        if len == 0 {
            continue;
        }
        match segments.last_mut() {
            Some(last) if last.adapter == adapter => last.rows.end += len,
            _ => segments.push(Segment { rows: row..row + len, adapter }),
        }
        row += len;
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn segments_tile_the_rows_and_keep_each_rows_adapter(
            sequences in proptest::collection::vec((0usize..9, proptest::option::of(0usize..3)), 0..20),
        ) {
            let segments = segments_of(sequences.clone());
            let expected: Vec<Option<usize>> =
                sequences.iter().flat_map(|(len, adapter)| vec![*adapter; *len]).collect();
            let mut row = 0;
            for segment in &segments {
                prop_assert_eq!(segment.rows.start, row);
                prop_assert!(!segment.rows.is_empty());
                for r in segment.rows.clone() {
                    prop_assert_eq!(expected[r], segment.adapter);
                }
                row = segment.rows.end;
            }
            prop_assert_eq!(row, expected.len());
            prop_assert!(segments.windows(2).all(|w| w[0].adapter != w[1].adapter));
        }
    }
}
