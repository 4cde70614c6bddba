//! A batch of paged sequences as numbers for kernels: which rows belong where, and what one workgroup of attention takes.

use polylora_kernels_cpu::{PagedBatch, PagedSequence};

/// Most positions of a tile of a prompt's rows. Kernels with smaller tiles walk through it in several workgroups.
pub const PROMPT_ROWS: usize = 32;
/// Keys that one workgroup takes of a decoding row.
pub const CHUNK_KEYS: usize = 256;
/// Numbers a tile of a prompt: first row, rows, position of the first row, where the sequence's table begins.
pub const PROMPT_FIELDS: usize = 4;
/// Numbers a chunk of a decoding row: the row, its position, where the sequence's table begins, the chunk's number.
pub const CHUNK_FIELDS: usize = 4;
/// Numbers a decoding row: the row, its position, its first chunk.
pub const DECODE_FIELDS: usize = 3;

/// Where a batch's numbers lie, counted from the first; and how many there are. First come the rows' positions, then their
/// slots, then the sequences' tables of blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagedIndex {
    /// Rows, each with a position and a slot.
    pub rows: usize,
    /// Where the tiles of prompts begin: sequences with more than one row.
    pub prompts_at: usize,
    /// Tiles of prompts.
    pub prompts: usize,
    /// Where the chunks of decoding rows begin.
    pub chunks_at: usize,
    /// Chunks of decoding rows.
    pub chunks: usize,
    /// Where the decoding rows begin.
    pub decodes_at: usize,
    /// Decoding rows: sequences with one row.
    pub decodes: usize,
}

impl PagedIndex {
    /// The numbers of `batch`.
    ///
    /// # Panics
    /// When there are more than 31 bits count.
    pub fn new(batch: &PagedBatch) -> (Self, Vec<i32>) {
        let rows = batch.rows();
        let mut values: Vec<i32> =
            batch.positions().iter().chain(batch.slots()).map(|at| *at as i32).collect();
        let (mut prompts, mut chunks, mut decodes) = (vec![], vec![], vec![]);
        let mut first = 0;
        for sequence in batch.sequences() {
            let table = values.len();
            values.extend(sequence.blocks.iter().map(|block| *block as i32));
            if sequence.rows == 1 {
                let place = [first, sequence.context];
                decodes.extend(place.into_iter().chain([chunks.len() / CHUNK_FIELDS]));
                for chunk in 0..sequence.end().div_ceil(CHUNK_KEYS) {
                    chunks.extend(place.into_iter().chain([table, chunk]));
                }
            } else {
                prompts.extend(prompt_tiles(sequence, first, table));
            }
            first += sequence.rows;
        }
        let prompts_at = values.len();
        let chunks_at = prompts_at + prompts.len();
        let index = Self {
            rows,
            prompts_at,
            prompts: prompts.len() / PROMPT_FIELDS,
            chunks_at,
            chunks: chunks.len() / CHUNK_FIELDS,
            decodes_at: chunks_at + chunks.len(),
            decodes: decodes.len() / DECODE_FIELDS,
        };
        values.extend(prompts.into_iter().chain(chunks).chain(decodes).map(|n| n as i32));
        assert!(values.len() <= i32::MAX as usize, "{} numbers for one batch", values.len());
        (index, values)
    }
}

fn prompt_tiles(sequence: &PagedSequence, first: usize, table: usize) -> impl Iterator<Item = usize> {
    let (rows, context) = (sequence.rows, sequence.context);
    (0..rows)
        .step_by(PROMPT_ROWS)
        .flat_map(move |at| [first + at, PROMPT_ROWS.min(rows - at), context + at, table])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_row_is_in_one_tile_or_decodes_over_chunks_that_hold_all_its_keys(
            lengths in proptest::collection::vec((0usize..900, 1usize..90, any::<bool>()), 0..8),
            block_size in 1usize..40,
        ) {
            let mut free = 0..100_000;
            let sequences: Vec<_> = lengths.into_iter().map(|(context, rows, decodes)| {
                let rows = if decodes { 1 } else { rows };
                let blocks = free.by_ref().take((context + rows).div_ceil(block_size)).collect();
                PagedSequence { rows, context, blocks }
            }).collect();
            let batch = PagedBatch::new(&sequences, block_size);
            let (index, values) = PagedIndex::new(&batch);
            let at = |at: usize| values[at] as usize;
            let mut seen = vec![0; index.rows];
            let mut table_of = vec![];
            for sequence in &sequences {
                table_of.extend(vec![sequence.blocks.clone(); sequence.rows]);
            }
            let has_table = |row: usize, table: usize| {
                table_of[row].iter().enumerate().all(|(i, block)| at(table + i) == *block as usize)
            };
            for tile in 0..index.prompts {
                let tile = index.prompts_at + tile * PROMPT_FIELDS;
                prop_assert!((1..=PROMPT_ROWS).contains(&at(tile + 1)));
                for i in 0..at(tile + 1) {
                    let row = at(tile) + i;
                    seen[row] += 1;
                    prop_assert_eq!(batch.positions()[row] as usize, at(tile + 2) + i);
                    prop_assert!(has_table(row, at(tile + 3)));
                }
            }
            for decode in 0..index.decodes {
                let decode = index.decodes_at + decode * DECODE_FIELDS;
                let (row, position) = (at(decode), at(decode + 1));
                seen[row] += 1;
                prop_assert_eq!(batch.positions()[row] as usize, position);
                for chunk in 0..position / CHUNK_KEYS + 1 {
                    prop_assert!(at(decode + 2) + chunk < index.chunks);
                    let place = index.chunks_at + (at(decode + 2) + chunk) * CHUNK_FIELDS;
                    prop_assert_eq!((at(place), at(place + 1), at(place + 3)), (row, position, chunk));
                    prop_assert!(has_table(row, at(place + 2)));
                }
            }
            prop_assert!(seen.iter().all(|n| *n == 1));
            prop_assert_eq!(values.len(), index.decodes_at + index.decodes * DECODE_FIELDS);
        }
    }
}
