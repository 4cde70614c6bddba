//! Remembered keys and values: what the laws of storing them and of attention share.

use half::bf16;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::*;

use crate::layer::rounded;
use crate::values;

mod attention;
mod store;

/// Sequences with their queries, keys and values at every position, and the blocks that they are given.
pub struct Fixture {
    pub shape: KvShape,
    /// By sequence: its length.
    pub lengths: Vec<usize>,
    /// By sequence: `[length, (query + 2 kv) * width]`.
    pub qkv: Vec<Vec<f32>>,
    /// By sequence: its blocks, scattered over the cache.
    pub blocks: Vec<Vec<u32>>,
}

impl Fixture {
    pub fn new(seed: u64, heads: KvHeads, block_size: usize, lengths: &[usize]) -> Self {
        let counts: Vec<usize> = lengths.iter().map(|len| len.div_ceil(block_size)).collect();
        let total = counts.iter().sum::<usize>() + 3;
        // A permutation: neighbours in a sequence lie anywhere.
        let mut free: Vec<u32> = (0..total as u32).collect();
        for (i, v) in values(seed + 77, total).into_iter().enumerate() {
            free.swap(i, ((v.abs() * total as f32) as usize).min(total - 1));
        }
        let blocks = counts.into_iter().map(|count| free.drain(..count).collect()).collect();
        let columns = heads.qkv_columns();
        let qkv = lengths.iter().enumerate().map(|(i, len)| values(seed + i as u64, len * columns)).collect();
        let shape = KvShape { blocks: total, block_size, heads };
        Self { shape, lengths: lengths.to_vec(), qkv, blocks }
    }

    /// The same with values that `E` holds.
    pub fn rounded<E: Element>(mut self) -> Self {
        for qkv in &mut self.qkv {
            *qkv = rounded::<E>(qkv).into_iter().map(E::to_f32).collect();
        }
        self
    }

    /// A cache without a number in it.
    pub fn poisoned<E: Element>(&self, isa: Isa) -> KvPanels {
        let mut cache = KvPanels::new::<E>(self.shape).expect("memory");
        let KvShape { blocks, block_size, heads } = self.shape;
        let all =
            PagedSequence { rows: blocks * block_size, context: 0, blocks: (0..blocks as u32).collect() };
        let poison = vec![f32::NAN; all.rows * heads.qkv_columns()];
        store::<E>(isa, &mut cache, heads, &[(all, &poison)]);
        assert!(cache.unpack().iter().all(|v| v.is_nan()));
        cache
    }

    /// The rows `from..to` of a sequence.
    pub fn rows(&self, sequence: usize, from: usize, to: usize) -> (PagedSequence, &[f32]) {
        let columns = self.shape.heads.qkv_columns();
        let blocks = self.blocks[sequence][..to.div_ceil(self.shape.block_size)].to_vec();
        let paged = PagedSequence { rows: to - from, context: from, blocks };
        (paged, &self.qkv[sequence][from * columns..to * columns])
    }
}

/// Stores rows without turning them; gives their queries.
pub fn store<E: Element>(
    isa: Isa,
    cache: &mut KvPanels,
    heads: KvHeads,
    rows: &[(PagedSequence, &[f32])],
) -> Vec<E> {
    let batch = batch(cache, rows);
    let qkv: Vec<E> = rows.iter().flat_map(|(_, qkv)| rounded::<E>(qkv)).collect();
    let mut q = vec![E::default(); batch.rows() * heads.query * heads.width];
    let rotary = RotaryTable { cos: &[], sin: &[], half: 0 };
    store_kv(isa, StoreCall { qkv: &qkv, heads, batch: &batch, rotary, norms: [None; 2] }, cache, &mut q);
    q
}

pub fn batch(cache: &KvPanels, rows: &[(PagedSequence, &[f32])]) -> PagedBatch {
    let sequences: Vec<_> = rows.iter().map(|(sequence, _)| sequence.clone()).collect();
    PagedBatch::new(&sequences, cache.shape().block_size)
}

/// Bits, for what must be equal to the last of them.
pub fn bits<E: Element>(values: &[E]) -> Vec<u32> {
    values.iter().map(|v| v.to_f32().to_bits()).collect()
}

/// [`Element`] by name.
pub fn name<E: Element>() -> &'static str {
    if E::default().to_f32() == bf16::ZERO.to_f32() && size_of::<E>() == 2 { "bf16" } else { "f32" }
}
