//! Which blocks hold the keys and values of a batch's sequences.

use std::collections::HashSet;

/// Heads of an attention in which several heads of queries share one of keys and values (GQA, arXiv 2305.13245).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvHeads {
    /// Heads of queries, a multiple of `kv`.
    pub query: usize,
    /// Heads of keys, and of values.
    pub kv: usize,
    /// Width of one head.
    pub width: usize,
}

impl KvHeads {
    /// Heads of queries that share a head of keys.
    ///
    /// # Panics
    /// When the heads of keys do not divide those of queries.
    pub fn sharing(&self) -> usize {
        let divides = self.kv > 0 && self.query.is_multiple_of(self.kv);
        assert!(divides, "{} heads of queries over {} of keys", self.query, self.kv);
        self.query / self.kv
    }

    /// Columns of queries, keys and values side by side.
    pub fn qkv_columns(&self) -> usize {
        (self.query + 2 * self.kv) * self.width
    }
}

/// Size of one layer's keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Blocks.
    pub blocks: usize,
    /// Tokens a block.
    pub block_size: usize,
    /// Heads.
    pub heads: KvHeads,
}

/// The rows that one sequence has in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagedSequence {
    /// New rows, 1 when it decodes, more when its prompt is read.
    pub rows: usize,
    /// Tokens before these rows, whose keys and values are remembered.
    pub context: usize,
    /// The block of the positions `i * block_size ..` at `i`, up to the last new row. Blocks that a window has left behind
    /// are never read, whatever stands for them.
    pub blocks: Vec<u32>,
}

impl PagedSequence {
    /// Positions when the new rows are there.
    pub fn end(&self) -> usize {
        self.context + self.rows
    }
}

/// A batch's sequences: none without a row, none without its blocks, and no block written by two of them.
#[derive(Clone, Debug)]
pub struct PagedBatch {
    sequences: Vec<PagedSequence>,
    block_size: usize,
    positions: Vec<u32>,
    slots: Vec<u32>,
    blocks: usize,
}

impl PagedBatch {
    /// Rows of `sequences`, one after the other, with blocks of `block_size` tokens.
    ///
    /// # Panics
    /// When a sequence has no row or too few blocks, when two of them write to one block, or a slot has no number of 31 bits.
    pub fn new(sequences: &[PagedSequence], block_size: usize) -> Self {
        assert!(block_size > 0, "a block of no tokens");
        let mut written = HashSet::new();
        for sequence in sequences {
            assert!(sequence.rows > 0, "a sequence without a row in the batch");
            let (held, end) = (sequence.blocks.len() * block_size, sequence.end());
            assert!(held >= end, "blocks for {held} positions, {end} are needed");
            for block in &sequence.blocks[sequence.context / block_size..end.div_ceil(block_size)] {
                assert!(written.insert(*block), "block {block} is written twice in one batch");
            }
        }
        let most = sequences.iter().flat_map(|s| &s.blocks).max().map_or(0, |most| *most as usize + 1);
        assert!(most.saturating_mul(block_size) <= i32::MAX as usize, "{most} blocks of {block_size} tokens");
        let positions = sequences.iter().flat_map(|s| (s.context..s.end()).map(|at| at as u32)).collect();
        let mut batch =
            Self { sequences: sequences.to_vec(), block_size, positions, slots: vec![], blocks: most };
        batch.slots = batch
            .sequences
            .iter()
            .flat_map(|s| (s.context..s.end()).map(|position| batch.slot(s, position) as u32))
            .collect();
        batch
    }

    /// The sequences.
    pub fn sequences(&self) -> &[PagedSequence] {
        &self.sequences
    }

    /// Tokens a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Number of rows in all.
    pub fn rows(&self) -> usize {
        self.positions.len()
    }

    /// One more than the highest block that is named.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// By row: its position in its sequence.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// By row: where its keys and values lie, `block * block_size + place in the block`. No two are equal.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// Where a position's keys and values lie.
    pub fn slot(&self, sequence: &PagedSequence, position: usize) -> usize {
        sequence.blocks[position / self.block_size] as usize * self.block_size + position % self.block_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_row_has_its_position_and_a_slot_of_its_own(
            lengths in proptest::collection::vec((0usize..40, 1usize..20), 0..6), block_size in 1usize..9,
        ) {
            let mut free = (0..1000).rev();
            let sequences: Vec<_> = lengths.into_iter().map(|(context, rows)| PagedSequence {
                rows, context, blocks: free.by_ref().take((context + rows).div_ceil(block_size)).collect(),
            }).collect();
            let batch = PagedBatch::new(&sequences, block_size);
            let mut row = 0;
            let mut seen = HashSet::new();
            for sequence in &sequences {
                for position in sequence.context..sequence.end() {
                    let slot = batch.slots()[row] as usize;
                    prop_assert_eq!(batch.positions()[row] as usize, position);
                    prop_assert_eq!(slot / block_size, sequence.blocks[position / block_size] as usize);
                    prop_assert_eq!(slot % block_size, position % block_size);
                    prop_assert!(seen.insert(slot) && slot < batch.blocks() * block_size);
                    row += 1;
                }
            }
            prop_assert_eq!(row, batch.rows());
        }
    }

    #[test]
    #[should_panic(expected = "block 7 is written twice")]
    fn no_block_is_written_by_two_sequences() {
        let sequence = PagedSequence { rows: 1, context: 3, blocks: vec![7] };
        PagedBatch::new(&[sequence.clone(), sequence], 4);
    }

    #[test]
    fn a_block_that_is_only_read_may_be_shared() {
        let sequence = |own| PagedSequence { rows: 1, context: 4, blocks: vec![7, own] };
        assert_eq!(PagedBatch::new(&[sequence(1), sequence(2)], 4).slots(), [4, 8]);
    }
}
