//! Attention over remembered keys and values.

use half::bf16;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::*;
use proptest::prelude::*;

use super::{Fixture, batch, bits, name, store};
use crate::{assert_close, on_threads};

/// Stores the rows and attends with them.
fn step<E: Element>(
    isa: Isa,
    cache: &mut KvPanels,
    heads: KvHeads,
    window: Option<usize>,
    rows: &[(PagedSequence, &[f32])],
) -> Vec<E> {
    let q = store::<E>(isa, cache, heads, rows);
    let batch = batch(cache, rows);
    let mut out = vec![E::from_f32(f32::NAN); q.len()];
    let scale = 1.0 / (heads.width as f32).sqrt();
    attention_paged(isa, PagedAttentionCall { q: &q, cache, batch: &batch, heads, scale, window }, &mut out);
    out
}

/// The rows `from..to` of a sequence in f64, each over all that it sees.
fn naive(fixture: &Fixture, sequence: usize, from: usize, to: usize, window: Option<usize>) -> Vec<f32> {
    let KvHeads { query, kv, width } = fixture.shape.heads;
    let columns = fixture.shape.heads.qkv_columns();
    let qkv = &fixture.qkv[sequence];
    let scale = 1.0 / (width as f64).sqrt();
    let mut out = vec![];
    for row in from..to {
        let first = window.map_or(0, |window| (row + 1).saturating_sub(window));
        for head in 0..query {
            let at = |row: usize, head: usize, c: usize| qkv[row * columns + head * width + c] as f64;
            let shared = head / (query / kv);
            let score = |key: usize| {
                (0..width).map(|c| at(row, head, c) * at(key, query + shared, c)).sum::<f64>() * scale
            };
            let scores: Vec<f64> = (first..=row).map(score).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            for c in 0..width {
                let values = (first..=row).map(|key| at(key, query + kv + shared, c));
                out.push((weights.iter().zip(values).map(|(w, v)| w * v).sum::<f64>() / total) as f32);
            }
        }
    }
    out
}

/// All rows of all sequences, those of each step in one batch: `cuts` says how many rows a sequence has at most in it.
fn stepwise<E: Element>(isa: Isa, fixture: &Fixture, window: Option<usize>, cuts: &[usize]) -> Vec<Vec<E>> {
    let mut cache = fixture.poisoned::<E>(isa);
    let heads = fixture.shape.heads;
    let mut out: Vec<Vec<E>> = vec![vec![]; fixture.lengths.len()];
    let mut done = vec![0; fixture.lengths.len()];
    for turn in 0.. {
        let mut rows = vec![];
        let mut whose = vec![];
        for (i, len) in fixture.lengths.iter().enumerate() {
            let to = (done[i] + cuts[(turn + i) % cuts.len()]).min(*len);
            if to > done[i] {
                rows.push(fixture.rows(i, done[i], to));
                whose.push((i, to - done[i]));
                done[i] = to;
            }
        }
        if rows.is_empty() {
            return out;
        }
        let step = step::<E>(isa, &mut cache, heads, window, &rows);
        let mut at = 0;
        for (i, count) in whose {
            let len = count * heads.query * heads.width;
            out[i].extend(&step[at..at + len]);
            at += len;
        }
    }
    out
}

fn is_naive<E: Element>(isa: Isa, fixture: &Fixture, window: Option<usize>, cuts: &[usize], tolerance: f32) {
    let got = stepwise::<E>(isa, fixture, window, cuts);
    for (i, got) in got.iter().enumerate() {
        let got: Vec<f32> = got.iter().map(|v| v.to_f32()).collect();
        let want = naive(fixture, i, 0, fixture.lengths[i], window);
        assert_close(&got, &want, tolerance, &format!("{} {} sequence {i}", isa.name(), name::<E>()));
    }
}

fn is_the_same_alone_and_at_once<E: Element>(
    isa: Isa,
    fixture: &Fixture,
    window: Option<usize>,
    cuts: &[usize],
) {
    let pieces = on_threads(2, || stepwise::<E>(isa, fixture, window, cuts));
    for (i, pieces) in pieces.iter().enumerate() {
        let alone = on_threads(1, || {
            let mut cache = fixture.poisoned::<E>(isa);
            step::<E>(isa, &mut cache, fixture.shape.heads, window, &[fixture.rows(i, 0, fixture.lengths[i])])
        });
        assert!(bits(pieces) == bits(&alone), "{} {} sequence {i}", isa.name(), name::<E>());
    }
}

fn heads() -> impl Strategy<Value = KvHeads> {
    (1usize..4, 1usize..9, 1usize..70).prop_map(|(kv, sharing, width)| KvHeads {
        query: kv * sharing,
        kv,
        width,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn attention_equals_the_naive_one_over_scattered_blocks(
        seed in 0u64..1000, heads in heads(), block_size in 1usize..40,
        lengths in proptest::collection::vec(1usize..70, 1..4), window in proptest::option::of(1usize..50),
        cuts in proptest::collection::vec(1usize..30, 1..4), threads in 1usize..3,
    ) {
        let fixture = Fixture::new(seed, heads, block_size, &lengths);
        let coarse = Fixture::new(seed, heads, block_size, &lengths).rounded::<bf16>();
        for isa in Isa::available() {
            on_threads(threads, || {
                is_naive::<f32>(isa, &fixture, window, &cuts, 1e-5);
                is_naive::<bf16>(isa, &coarse, window, &cuts, 8e-3);
            });
        }
    }

    #[test]
    fn a_rows_bits_depend_neither_on_its_batch_mates_nor_on_how_its_prompt_was_cut(
        seed in 0u64..1000, heads in heads(), block_size in 1usize..40,
        lengths in proptest::collection::vec(1usize..70, 2..4), window in proptest::option::of(1usize..50),
        cuts in proptest::collection::vec(1usize..30, 1..4),
    ) {
        let fixture = Fixture::new(seed, heads, block_size, &lengths);
        for isa in Isa::available() {
            is_the_same_alone_and_at_once::<f32>(isa, &fixture, window, &cuts);
            is_the_same_alone_and_at_once::<bf16>(isa, &fixture, window, &cuts);
        }
    }
}

#[test]
fn contexts_of_many_chunks_equal_the_naive_one_to_the_bit_whoever_adds_them_up() {
    let heads = KvHeads { query: 3, kv: 1, width: 24 };
    for (block_size, window) in [(16, None), (32, Some(700)), (100, None), (600, Some(3))] {
        let fixture = Fixture::new(9, heads, block_size, &[1100, 40]);
        let coarse = Fixture::new(9, heads, block_size, &[1100, 40]).rounded::<bf16>();
        for isa in Isa::available() {
            // With two threads and one or two spans a step, each chunk is a task.
            for cuts in [&[1090, 1][..], &[400]] {
                on_threads(2, || {
                    is_naive::<f32>(isa, &fixture, window, cuts, 1e-5);
                    is_naive::<bf16>(isa, &coarse, window, cuts, 8e-3);
                });
                is_the_same_alone_and_at_once::<f32>(isa, &fixture, window, cuts);
                is_the_same_alone_and_at_once::<bf16>(isa, &fixture, window, cuts);
            }
        }
    }
}

#[test]
fn blocks_that_a_window_has_left_behind_are_not_read() {
    let heads = KvHeads { query: 4, kv: 2, width: 20 };
    let (block_size, window) = (8, Some(10));
    let fixture = Fixture::new(5, heads, block_size, &[101]);
    let poison =
        (0..fixture.shape.blocks as u32).find(|block| !fixture.blocks[0].contains(block)).expect("free");
    for isa in Isa::available() {
        let mut cache = fixture.poisoned::<f32>(isa);
        store::<f32>(isa, &mut cache, heads, &[fixture.rows(0, 0, 100)]);
        let (mut last, qkv) = fixture.rows(0, 100, 101);
        let want = step::<f32>(isa, &mut cache, heads, window, &[(last.clone(), qkv)]);
        // The row at 100 sees 91 to 100: the blocks from 88 on.
        last.blocks[..11].fill(poison);
        let got = step::<f32>(isa, &mut cache, heads, window, &[(last, qkv)]);
        assert_eq!(bits(&got), bits(&want), "{}", isa.name());
    }
}

#[test]
fn large_finite_scores_give_the_mean_of_equal_keys() {
    let heads = KvHeads { query: 1, kv: 1, width: 32 };
    for size in [3e4, 1e5, 1.2e6, 1.1e9] {
        let mut fixture = Fixture::new(1, heads, 16, &[3]);
        for (value, row) in [1.0, 2.0, 3.0].into_iter().zip(fixture.qkv[0].chunks_exact_mut(96)) {
            row[..64].fill(size);
            row[64..].fill(value);
        }
        for isa in Isa::available() {
            let got = stepwise::<f32>(isa, &fixture, None, &[3]);
            assert_close(&got[0][64..], &[2.0; 32], 1e-5, &format!("{} {size}", isa.name()));
        }
    }
}
