//! Where a layer's keys and values lie.

use half::bf16;

use super::batch::KvShape;
use crate::element::Element;
use crate::packed_matrix::{PANEL, WeightFormat};
use crate::target::LANES;

/// A cache line, in words.
const LINE: usize = 16;

/// The system has not so much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes for the keys and values of one layer cannot be allocated")]
pub struct NoMemory {
    /// What was asked for.
    pub bytes: usize,
}

/// One layer's keys and values. A block has its heads one after the other; a head has its keys, then its values:
///
/// - the keys in panels of as many keys as the layout has lanes, a panel as a packed weight's: step by step over the head's columns,
///   four bytes a key (one f32 column or two bf16 ones);
/// - the values in panels of 32 columns (the last perhaps of 16), a panel step by step over the block's keys, four bytes a
///   column (one key in f32 or two in bf16).
///
/// Keys are padded to whole panels and columns to sixteens. What pads them is zero and is never written; memory is touched when
/// it is first written.
#[derive(Debug)]
pub struct KvPanels {
    words: Vec<u32>,
    layout: PanelLayout,
    shape: KvShape,
    format: WeightFormat,
}

/// Which value lies where.
#[derive(Clone, Copy, Debug)]
pub(super) struct PanelLayout {
    /// Words before the first block, which begins on a cache line.
    start: usize,
    blocks: usize,
    heads: usize,
    /// Values of a word: keys of a step of values, columns of a step of keys.
    pub group: usize,
    /// Keys of a panel, 16 or 32.
    pub lanes: usize,
    /// Keys of a block with what pads them.
    pub block_keys: usize,
    /// Steps of a panel of keys.
    pub key_steps: usize,
    /// Columns of a head with what pads them, a multiple of 16.
    pub columns: usize,
}

impl PanelLayout {
    fn new(shape: KvShape, format: WeightFormat) -> Self {
        let KvShape { blocks, block_size, heads } = shape;
        let lanes = if block_size.is_multiple_of(PANEL) { PANEL } else { LANES };
        Self {
            start: 0,
            blocks,
            heads: heads.kv,
            group: format.group(),
            lanes,
            block_keys: block_size.next_multiple_of(lanes),
            key_steps: heads.width.div_ceil(format.group()),
            columns: heads.width.next_multiple_of(LANES),
        }
    }

    /// Words from the start of everything to a head's keys and to its values in a block.
    ///
    /// # Panics
    /// When there is no such block or head.
    #[inline(always)]
    pub fn head(&self, block: usize, head: usize) -> [usize; 2] {
        assert!(block < self.blocks && head < self.heads, "head {head} of block {block}");
        let keys = self.start + (block * self.heads + head) * self.head_words();
        [keys, keys + self.key_words()]
    }

    /// Words of a head's keys in a block.
    fn key_words(&self) -> usize {
        (self.key_steps * self.block_keys).next_multiple_of(LINE)
    }

    /// Words of a head's keys and values in a block.
    fn head_words(&self) -> usize {
        self.key_words() + self.block_keys / self.group * self.columns
    }

    /// Panels of a block's keys.
    pub fn key_panels(&self) -> usize {
        self.block_keys / self.lanes
    }

    /// Words from the start of a head's keys to a panel of them.
    pub fn key_panel(&self, panel: usize) -> usize {
        panel * self.key_steps * self.lanes
    }

    /// Panels of a head's columns.
    pub fn value_panels(&self) -> usize {
        self.columns.div_ceil(PANEL)
    }

    /// Columns of a panel of values.
    pub fn value_panel_width(&self, panel: usize) -> usize {
        PANEL.min(self.columns - panel * PANEL)
    }

    /// Words from the start of a head's values to a panel of them.
    pub fn value_panel(&self, panel: usize) -> usize {
        panel * PANEL * (self.block_keys / self.group)
    }

    /// From the start of a head's keys to a column of one, in values.
    pub fn key_at(&self, key: usize, column: usize) -> usize {
        let word = self.key_panel(key / self.lanes) + column / self.group * self.lanes + key % self.lanes;
        word * self.group + column % self.group
    }

    /// From the start of a head's values to a column of one, in values.
    pub fn value_at(&self, key: usize, column: usize) -> usize {
        let panel = column / PANEL;
        let step = self.value_panel(panel) + key / self.group * self.value_panel_width(panel);
        (step + column % PANEL) * self.group + key % self.group
    }
}

impl KvPanels {
    /// Room for `shape` in the dtype `E`.
    ///
    /// # Errors
    /// When the system has not so much memory.
    pub fn new<E: Element>(shape: KvShape) -> Result<Self, NoMemory> {
        let bytes = shape.blocks.saturating_mul(Self::block_bytes::<E>(shape)).saturating_add(4 * LINE);
        // Asked first, because the allocation of zeros would end the process.
        let mut probe = Vec::<u8>::new();
        probe.try_reserve_exact(bytes).map_err(|_| NoMemory { bytes })?;
        drop(probe);
        let words = vec![0u32; bytes.div_ceil(4)];
        let start = words.as_ptr().align_offset(4 * LINE).min(LINE);
        let layout = PanelLayout { start, ..PanelLayout::new(shape, E::FORMAT) };
        Ok(Self { words, layout, shape, format: E::FORMAT })
    }

    /// Bytes of one block of that size in the dtype `E`.
    pub fn block_bytes<E: Element>(shape: KvShape) -> usize {
        PanelLayout::new(shape, E::FORMAT).head_words().saturating_mul(shape.heads.kv).saturating_mul(4)
    }

    /// Its size.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Copies a whole block onto another.
    ///
    /// # Panics
    /// When one of them is not there.
    pub fn copy_block(&mut self, from: usize, to: usize) {
        let (from, to) = (self.block(from), self.block(to));
        self.words.copy_within(from, to.start);
    }

    /// All keys and values, `[blocks * block_size, 2 * kv * width]`: a token's keys, head by head, then its values.
    pub fn unpack(&self) -> Vec<f32> {
        let KvShape { blocks, block_size, heads } = self.shape;
        let layout = self.layout;
        let mut out = Vec::with_capacity(blocks * block_size * 2 * heads.kv * heads.width);
        for slot in 0..blocks * block_size {
            let (block, key) = (slot / block_size, slot % block_size);
            for part in 0..2 {
                for head in 0..heads.kv {
                    let [keys, values] = layout.head(block, head);
                    out.extend((0..heads.width).map(|column| match part {
                        0 => self.value(keys, layout.key_at(key, column)),
                        _ => self.value(values, layout.value_at(key, column)),
                    }));
                }
            }
        }
        out
    }

    pub(super) fn layout(&self) -> PanelLayout {
        self.layout
    }

    pub(super) fn holds<E: Element>(&self) -> bool {
        self.format == E::FORMAT
    }

    /// Everything.
    pub(super) fn words(&self) -> &[u32] {
        &self.words
    }

    /// Everything, to be written.
    pub(super) fn words_mut(&mut self) -> &mut [u32] {
        &mut self.words
    }

    fn block(&self, block: usize) -> std::ops::Range<usize> {
        assert!(block < self.shape.blocks, "block {block} of {}", self.shape.blocks);
        let (start, words) = (self.layout.start, self.layout.heads * self.layout.head_words());
        start + block * words..start + (block + 1) * words
    }

    fn value(&self, word: usize, at: usize) -> f32 {
        match self.format {
            WeightFormat::Bf16 => bytemuck::cast_slice::<_, bf16>(&self.words[word..])[at].to_f32(),
            _ => f32::from_bits(self.words[word + at]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::paged::KvHeads;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_has_a_place_of_its_own_within_its_block(
            block_size in 1usize..70, width in 1usize..140, bf16_values in any::<bool>(),
        ) {
            let shape = KvShape { blocks: 2, block_size, heads: KvHeads { query: 2, kv: 2, width } };
            let cache = if bf16_values { KvPanels::new::<bf16>(shape) } else { KvPanels::new::<f32>(shape) };
            let cache = cache.expect("memory");
            let layout = cache.layout;
            let mut seen = HashSet::new();
            for block in 0..2 {
                let range = cache.block(block);
                prop_assert!(range.end <= cache.words.len());
                for head in 0..2 {
                    let [keys, values] = layout.head(block, head);
                    for start in [keys, values] {
                        prop_assert_eq!(cache.words[start..].as_ptr() as usize % 64, 0);
                    }
                    for key in 0..block_size {
                        for column in 0..width {
                            for at in [
                                keys * layout.group + layout.key_at(key, column),
                                values * layout.group + layout.value_at(key, column),
                            ] {
                                prop_assert!(range.contains(&(at / layout.group)));
                                prop_assert!(seen.insert(at));
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_and_widths_of_real_models_are_not_padded() {
        for (block_size, width) in [(16, 64), (16, 80), (32, 96), (128, 128), (48, 256)] {
            let shape = KvShape { blocks: 1, block_size, heads: KvHeads { query: 8, kv: 4, width } };
            let values = 2 * 4 * block_size * width;
            assert_eq!(KvPanels::block_bytes::<f32>(shape), 4 * values);
            assert_eq!(KvPanels::block_bytes::<bf16>(shape), 2 * values);
        }
    }

    #[test]
    fn more_memory_than_there_is_is_an_error_and_not_an_abort() {
        let heads = KvHeads { query: 8, kv: 8, width: 128 };
        let shape = KvShape { blocks: usize::MAX / 4096, block_size: 16, heads };
        assert!(KvPanels::new::<f32>(shape).is_err());
    }
}
