//! Paged keys and values in plain tensor operations, one sequence after the other.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::TensorData;
use polylora_kernels_cpu::PagedSequence;

use super::{assign, cast, rms_norm, slice, softmax, widen};
use crate::kv_layer::KvCache;
use crate::ops::paged::{
    AttentionPagedArgs, CopyBlocksArgs, HeadNormTensors, RotaryTensors, StoreKvArgs, StoredKv,
};
use crate::ops::rms_norm::{RmsNormArgs, RmsNormTensors};

pub(crate) fn store_kv<B: Backend>(args: StoreKvArgs<B>) -> StoredKv<B> {
    let StoreKvArgs { qkv, cache, shape, rows, rotary, head_norms } = args;
    let mut cache = plain::<B>(cache);
    let (dtype, [count, columns]) = (qkv.dtype(), qkv.shape().dims());
    let (width, kv) = (shape.heads.width, shape.heads.kv);
    let (q_end, k_end) = (columns - 2 * kv * width, columns - kv * width);
    let part = |from: usize, to: usize| slice::<B>(qkv.clone(), &[0..count, from..to]);
    let (q_norm, k_norm) = match head_norms {
        HeadNormTensors::Absent => (None, None),
        HeadNormTensors::Present { q, k } => (Some(q), Some(k)),
    };
    let positions: Vec<i32> = rows.batch.positions().iter().map(|position| *position as i32).collect();
    let turned = |x: FloatTensor<B>, norm: Option<RmsNormTensors<B>>| {
        let x = by_head::<B>(widen::<B>(x), width, norm);
        let x = rotated::<B>(x, &rotary, &positions);
        let columns = x.shape().num_elements() / count.max(1);
        cast::<B>(B::float_reshape(x, [count, columns].into()), dtype)
    };
    let q = turned(part(0, q_end), q_norm);
    let k = turned(part(q_end, k_end), k_norm);
    let kv_rows = B::float_cat(vec![k, part(k_end, columns)], 1);
    for (row, slot) in rows.batch.slots().iter().enumerate() {
        let slot = *slot as usize;
        let value = slice::<B>(kv_rows.clone(), &[row..row + 1, 0..2 * kv * width]);
        cache = assign::<B>(cache, &[slot..slot + 1, 0..2 * kv * width], value);
    }
    StoredKv { q, cache: KvCache::Plain(cache) }
}

/// `[T, heads * width]` as `[T, heads, width]`, each head normed by itself.
fn by_head<B: Backend>(x: FloatTensor<B>, width: usize, norm: Option<RmsNormTensors<B>>) -> FloatTensor<B> {
    let [count, columns] = x.shape().dims();
    let heads = columns / width;
    let x = B::float_reshape(x, [count * heads, width].into());
    let x = match norm {
        None => x,
        Some(norm) => rms_norm::rms_norm::<B>(RmsNormArgs { x, norm }),
    };
    B::float_reshape(x, [count, heads, width].into())
}

/// `[T, heads, width]` turned by its rows' angles.
fn rotated<B: Backend>(x: FloatTensor<B>, rotary: &RotaryTensors<B>, positions: &[i32]) -> FloatTensor<B> {
    let [count, heads, width] = x.shape().dims();
    let half = rotary.cos.shape()[1];
    let angles = |table: &FloatTensor<B>| {
        let index = B::int_from_data(TensorData::new(positions.to_vec(), [count]), &x.device());
        let rows = widen::<B>(B::float_select(table.clone(), 0, index));
        B::float_expand(B::float_reshape(rows, [count, 1, half].into()), [count, heads, half].into())
    };
    let (cos, sin) = (angles(&rotary.cos), angles(&rotary.sin));
    let columns = |from: usize, to: usize| slice::<B>(x.clone(), &[0..count, 0..heads, from..to]);
    let (first, second) = (columns(0, half), columns(half, 2 * half));
    let times = |a: &FloatTensor<B>, b: &FloatTensor<B>| B::float_mul(a.clone(), b.clone());
    let mut parts = vec![
        B::float_sub(times(&first, &cos), times(&second, &sin)),
        B::float_add(times(&second, &cos), times(&first, &sin)),
    ];
    if 2 * half < width {
        parts.push(columns(2 * half, width));
    }
    B::float_cat(parts, 2)
}

pub(crate) fn attention_paged<B: Backend>(args: AttentionPagedArgs<B>) -> FloatTensor<B> {
    let AttentionPagedArgs { q, cache, rows, attention, .. } = args;
    let cache = plain::<B>(cache);
    let (dtype, heads, sharing) = (q.dtype(), attention.heads, attention.heads.sharing());
    let width = heads.width;
    let mut first_row = 0;
    let contexts = rows.batch.sequences().iter().map(|sequence| {
        let count = sequence.rows;
        let seen = first_seen(sequence, attention.window)..sequence.end();
        // [kv, rows * sharing, width]: the queries that share keys, one under the other
        let queries = slice::<B>(q.clone(), &[first_row..first_row + count, 0..heads.query * width]);
        let queries = B::float_reshape(widen::<B>(queries), [count, heads.kv, sharing * width].into());
        let queries = B::float_swap_dims(queries, 0, 1);
        let queries = B::float_reshape(queries, [heads.kv, count * sharing, width].into());
        // [kv, positions, width] of the keys or values
        let slots: Vec<i32> =
            seen.clone().map(|position| rows.batch.slot(sequence, position) as i32).collect();
        let index = B::int_from_data(TensorData::new(slots, [seen.len()]), &q.device());
        let held = widen::<B>(B::float_select(cache.clone(), 0, index));
        let part = |part: usize| {
            let columns = part * heads.kv * width..(part + 1) * heads.kv * width;
            let rows = slice::<B>(held.clone(), &[0..seen.len(), columns]);
            B::float_swap_dims(B::float_reshape(rows, [seen.len(), heads.kv, width].into()), 0, 1)
        };
        let scores = B::float_matmul(queries, B::float_swap_dims(part(0), 1, 2));
        let scores = B::float_mul_scalar(scores, attention.scale.into());
        let mask: Vec<f32> = (sequence.context..sequence.end())
            .flat_map(|row| vec![row; sharing])
            .flat_map(|row| seen.clone().map(move |key| hidden(row, key, attention.window)))
            .collect();
        let mask = TensorData::new(mask, [1, count * sharing, seen.len()]);
        let scores = B::float_add(scores, B::float_from_data(mask, &q.device()));
        let context = B::float_matmul(softmax::<B>(scores), part(1));
        let context = B::float_reshape(context, [heads.kv, count, sharing * width].into());
        first_row += count;
        B::float_reshape(B::float_swap_dims(context, 0, 1), [count, heads.query * width].into())
    });
    cast::<B>(B::float_cat(contexts.collect(), 0), dtype)
}

/// The first position that any of the sequence's rows sees.
fn first_seen(sequence: &PagedSequence, window: Option<usize>) -> usize {
    window.map_or(0, |window| (sequence.context + 1).saturating_sub(window))
}

/// What is added to the score of a key: nothing where the row sees it.
fn hidden(row: usize, key: usize, window: Option<usize>) -> f32 {
    let seen = key <= row && window.is_none_or(|window| row - key < window);
    if seen { 0.0 } else { f32::NEG_INFINITY }
}

pub(crate) fn copy_blocks<B: Backend>(args: CopyBlocksArgs<B>) -> KvCache<B> {
    let CopyBlocksArgs { cache, shape, host, .. } = args;
    let mut cache = plain::<B>(cache);
    let columns = cache.shape()[1];
    for (from, to) in host {
        let block = |at: u32| {
            let first = at as usize * shape.block_size;
            [first..first + shape.block_size, 0..columns]
        };
        let values = slice::<B>(cache.clone(), &block(from));
        cache = assign::<B>(cache, &block(to), values);
    }
    KvCache::Plain(cache)
}

/// # Panics
/// When it is in the CPU's own form: then its own kernels read it.
fn plain<B: Backend>(cache: KvCache<B>) -> FloatTensor<B> {
    match cache {
        KvCache::Plain(values) => values,
        KvCache::Panels(_) => panic!("panels of keys and values away from the CPU's kernels"),
    }
}
