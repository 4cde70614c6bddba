//! Kernels of paged keys and values write all that they should and nothing else, and read nothing that was not written.

use std::sync::Arc;

use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use polylora_kernels_cpu::{KvHeads, KvShape, PagedBatch, PagedSequence};

use super::paged::{attend_decodes, attend_prompts, store};
use super::paged_forms::DECODE_SHAPES;
use super::poisoned_outputs::{F32, POISON, assert_full, bits, device, floats, ints, poisoned, some};
use super::variant::ATTENTION_SHAPES;
use crate::kv_layer::KvCache;
use crate::ops::paged::{AttentionPagedArgs, HeadNormTensors, PagedAttention, RotaryTensors, StoreKvArgs};
use crate::ops::rms_norm::RmsNormTensors;
use crate::paged_index::PagedIndex;
use crate::paged_rows::PagedRowsIndex;

const BLOCK_SIZE: usize = 8;

fn rows(device: &CubeDevice, sequences: &[(usize, usize)]) -> (PagedRowsIndex<CubeBackend>, usize) {
    let mut next = 0;
    let sequences: Vec<_> = sequences
        .iter()
        .map(|(context, rows)| {
            let count = (context + rows).div_ceil(BLOCK_SIZE) as u32;
            next += count;
            // One block of poison between two sequences.
            next += 1;
            PagedSequence { rows: *rows, context: *context, blocks: (next - count..next).rev().collect() }
        })
        .collect();
    let batch = PagedBatch::new(&sequences, BLOCK_SIZE);
    let (index, values) = PagedIndex::new(&batch);
    (PagedRowsIndex { values: ints(device, values), index, batch: Arc::new(batch) }, next as usize + 1)
}

/// A cache in which only what the sequences' rows see is a number.
fn cache(device: &CubeDevice, rows: &PagedRowsIndex<CubeBackend>, shape: KvShape) -> CubeTensor {
    let columns = 2 * shape.heads.kv * shape.heads.width;
    let mut values = vec![f32::from_bits(POISON); shape.blocks * BLOCK_SIZE * columns];
    for sequence in rows.batch.sequences() {
        for position in 0..sequence.end() {
            let slot = rows.batch.slot(sequence, position);
            values[slot * columns..][..columns].copy_from_slice(&some(columns));
        }
    }
    floats(device, values, &[shape.blocks * BLOCK_SIZE, columns])
}

#[test]
fn stores_write_their_slots_and_no_other() {
    let Some(device) = device() else { return };
    for (width, norms) in [(24, true), (24, false), (7, true), (256, true)] {
        let heads = KvHeads { query: 4, kv: 2, width };
        let (rows, blocks) = rows(&device, &[(0, 11), (13, 1), (5, 3)]);
        let shape = KvShape { blocks, block_size: BLOCK_SIZE, heads };
        let (columns, count) = (2 * heads.kv * width, rows.batch.rows());
        let (held, whole_cache) = poisoned(&device, [blocks * BLOCK_SIZE, columns]);
        let (q, whole_q) = poisoned(&device, [count, heads.query * width]);
        let norm = || RmsNormTensors { gamma: floats(&device, some(width), &[width]), epsilon: 1e-6 };
        let angles = || floats(&device, some(20 * (width / 2)), &[20, width / 2]);
        let batch = rows.batch.clone();
        let args = StoreKvArgs {
            qkv: floats(&device, some(count * heads.qkv_columns()), &[count, heads.qkv_columns()]),
            cache: KvCache::Plain(held),
            shape,
            rows,
            rotary: RotaryTensors { cos: angles(), sin: angles() },
            head_norms: if norms {
                HeadNormTensors::Present { q: norm(), k: norm() }
            } else {
                HeadNormTensors::Absent
            },
        };
        store(args, q, F32);
        assert_full(whole_q, count * heads.query * width, "queries");
        let bits = bits(whole_cache);
        for (slot, held) in bits.chunks(columns).enumerate() {
            let written = batch.slots().contains(&(slot as u32));
            let right = |bits: &u32| {
                if written { f32::from_bits(*bits).is_finite() } else { *bits == POISON }
            };
            assert!(held.iter().all(right), "slot {slot} of width {width}");
        }
    }
}

#[test]
fn attention_reads_no_poison_and_fills_its_output() {
    let Some(device) = device() else { return };
    let run = |width: usize,
               sharing: usize,
               window,
               sequences: &[(usize, usize)],
               attend: &dyn Fn(&_, CubeTensor)| {
        let heads = KvHeads { query: 2 * sharing, kv: 2, width };
        let (rows, blocks) = rows(&device, sequences);
        let shape = KvShape { blocks, block_size: BLOCK_SIZE, heads };
        let count = rows.batch.rows();
        let columns = heads.query * width;
        let args = AttentionPagedArgs {
            q: floats(&device, some(count * columns), &[count, columns]),
            cache: KvCache::Plain(cache(&device, &rows, shape)),
            shape,
            rows,
            attention: PagedAttention { heads, scale: 0.3, window },
        };
        let (out, whole) = poisoned(&device, [count, columns]);
        attend(&args, out);
        assert_full(whole, count * columns, &format!("{width} {sharing} {window:?}"));
    };
    for window in [None, Some(9)] {
        for shape in ATTENTION_SHAPES {
            let attend = |args: &AttentionPagedArgs<CubeBackend>, out| attend_prompts(args, out, F32, shape);
            run(shape.head_room - 3, 3, window, &[(0, 33), (19, 2), (0, 9)], &attend);
        }
        for shape in DECODE_SHAPES {
            let attend = |args: &AttentionPagedArgs<CubeBackend>, out| attend_decodes(args, out, F32, shape);
            // Vectors and single values; fewer heads than there is room for, and more.
            for width in [shape.head_room - 3, shape.head_room - 4] {
                for sharing in [1, shape.rows + 1] {
                    run(width, sharing, window, &[(0, 1), (260, 1), (37, 1)], &attend);
                }
            }
        }
    }
}
