//! Attention on tiles.

use half::bf16;

use super::{assert_close, bits, in_new_memory, on_threads, on_tiles, rounded, values};
use crate::isa::Isa;
use crate::tile_emulator::{own_instructions, processor_has_tiles};
use crate::{AttentionCall, HeadShape, attention_packed};

/// Lengths around tiles and panels, and beyond one block of keys.
const LENGTHS: [usize; 10] = [1, 15, 16, 17, 31, 32, 33, 65, 100, 550];

/// Attention in bf16 over `fused`, `[T, 3 * heads * width]`.
fn run(isa: Isa, fused: &[f32], lengths: &[usize], heads: HeadShape) -> Vec<f32> {
    let w = heads.heads * heads.width;
    let mut bounds = vec![0];
    lengths.iter().for_each(|length| bounds.push(bounds[bounds.len() - 1] + *length as u32));
    let fused = rounded::<bf16>(fused);
    // Poisoned: everything must be written.
    let mut out = vec![bf16::NAN; fused.len() / 3];
    let call = AttentionCall {
        q: &fused,
        k: &fused[w..],
        v: &fused[2 * w..],
        stride: 3 * w,
        cu_seqlens: &bounds,
        heads,
        scale: 1.0 / (heads.width as f32).sqrt(),
    };
    attention_packed(isa, call, &mut out);
    out.into_iter().map(bf16::to_f32).collect()
}

/// Queries, keys and values of which some agree well, so that weights are not all alike.
fn fused(length: usize, heads: HeadShape) -> Vec<f32> {
    values(21, length * 3 * heads.heads * heads.width).into_iter().map(|v| 2.0 * v).collect()
}

#[test]
fn attention_on_tiles_equals_its_scalar_twin_within_bf16s_rounding() {
    on_tiles(|| {
        for (i, width) in [32, 64, 20, 2, 96].into_iter().enumerate() {
            let heads = HeadShape { heads: 2, width };
            for length in LENGTHS {
                let fused = fused(length, heads);
                on_threads(1 + i % 2, || {
                    let got = run(Isa::Amx, &fused, &[length], heads);
                    let want = run(Isa::Scalar, &fused, &[length], heads);
                    // Weights and results are each rounded to 8 bits; values are below 2.
                    assert_close(
                        &got,
                        &want,
                        (1.0 / 128.0, 1.0 / 128.0),
                        &format!("{length} rows, width {width}"),
                    );
                });
            }
        }
    });
}

#[test]
fn blocks_of_keys_whose_maximum_grows_are_summed_on_tiles() {
    on_tiles(|| {
        let (length, heads) = (1100, HeadShape { heads: 1, width: 32 });
        let mut fused = fused(length, heads);
        for (t, row) in fused.chunks_exact_mut(96).enumerate() {
            row[32..64].iter_mut().for_each(|k| *k *= 1.0 + t as f32 / 500.0);
        }
        let got = run(Isa::Amx, &fused, &[length], heads);
        assert_close(
            &got,
            &run(Isa::Scalar, &fused, &[length], heads),
            (1.0 / 128.0, 1.0 / 64.0),
            "three blocks",
        );
    });
}

#[test]
fn a_sequences_context_has_the_same_bits_alone_on_tiles() {
    on_tiles(|| {
        let heads = HeadShape { heads: 2, width: 32 };
        let (w, total) = (64, LENGTHS.iter().sum());
        let all = fused(total, heads);
        let together = on_threads(2, || run(Isa::Amx, &all, &LENGTHS, heads));
        let mut at = 0;
        for length in LENGTHS {
            let rows = at..at + length;
            let own = &all[rows.start * 3 * w..rows.end * 3 * w];
            let alone = on_threads(1, || run(Isa::Amx, own, &[length], heads));
            assert_eq!(bits(&alone), bits(&together[rows.start * w..rows.end * w]), "{length} rows");
            at += length;
        }
    });
}

#[test]
fn what_an_earlier_call_left_in_scratch_memory_does_not_come_out_of_tiles() {
    in_new_memory(|| {
        on_tiles(|| {
            for (width, length) in [(20, 33), (32, 17), (34, 50), (64, 5)] {
                let heads = HeadShape { heads: 1, width };
                let clean = fused(length, heads);
                let first = on_threads(1, || run(Isa::Amx, &clean, &[length], heads));
                for earlier in [96, 64, 34, 20].map(|width| HeadShape { heads: 1, width }) {
                    let dirty = vec![f32::NAN; 3 * 600 * earlier.width];
                    on_threads(1, || run(Isa::Amx, &dirty, &[600], earlier));
                    let again = on_threads(1, || run(Isa::Amx, &clean, &[length], heads));
                    assert_eq!(
                        bits(&again),
                        bits(&first),
                        "{length} rows, width {width} after {}",
                        earlier.width
                    );
                }
            }
        });
    });
}

#[test]
fn attention_on_tiles_reads_nothing_beyond_its_scratch_memory() {
    // Each run in a new thread: the memory is fenced where it ends, so it must end with what this run needs.
    for (length, width) in
        LENGTHS.into_iter().flat_map(|length| [2, 20, 32, 34, 64].map(|width| (length, width)))
    {
        in_new_memory(|| {
            on_tiles(|| {
                let heads = HeadShape { heads: 1, width };
                let got = on_threads(1, || run(Isa::Amx, &fused(length, heads), &[length], heads));
                assert!(
                    got.iter().all(|v| v.abs() <= 2.0),
                    "{length} rows, width {width}: no mean of the values"
                );
            });
        });
    }
}

#[test]
fn attention_in_bf16_uses_tiles() {
    on_tiles(|| {
        if processor_has_tiles() {
            return super::not_run("the processor's own tiles are not counted");
        }
        let (length, heads) = (48, HeadShape { heads: 2, width: 64 });
        let count = |isa| {
            let before = own_instructions();
            on_threads(1, || run(isa, &fused(length, heads), &[length], heads));
            own_instructions() - before
        };
        // Scores: 3 by 3 tiles at depth 2; context: 3 by 4 tiles at depth 2.
        let products = heads.heads as u64 * (3 * 3 * 2 + 3 * 4 * 2);
        let found = count(Isa::Amx);
        assert!(found >= products, "{found} instructions, {products} products at the least");
        assert_eq!(count(Isa::Avx512), 0);
    });
}
