//! Attention.

use half::bf16;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::*;
use proptest::prelude::*;

use crate::layer::rounded;
use crate::{assert_close, on_threads, values};

/// Attention over `fused`, `[T, 3 * heads * width]`, in `E` as the kernels compute it.
fn run<E: Element>(isa: Isa, fused: &[f32], cu: &[u32], heads: HeadShape) -> Vec<f32> {
    let w = heads.heads * heads.width;
    let fused = rounded::<E>(fused);
    let mut out = vec![E::from_f32(f32::NAN); cu[cu.len() - 1] as usize * w];
    let call = AttentionCall {
        q: &fused,
        k: &fused[w..],
        v: &fused[2 * w..],
        stride: 3 * w,
        cu_seqlens: cu,
        heads,
        scale: 1.0 / (heads.width as f32).sqrt(),
    };
    attention_packed(isa, call, &mut out);
    out.into_iter().map(E::to_f32).collect()
}

/// The same in f64.
fn naive(fused: &[f32], cu: &[u32], HeadShape { heads, width }: HeadShape) -> Vec<f32> {
    let w = heads * width;
    let scale = 1.0 / (width as f64).sqrt();
    let at = |part: usize, t: usize, c: usize| fused[t * 3 * w + part * w + c] as f64;
    let mut want = vec![];
    for pair in cu.windows(2) {
        let range = pair[0] as usize..pair[1] as usize;
        for t in range.clone() {
            for h in 0..heads {
                let dot = |j: usize| {
                    (0..width).map(|d| at(0, t, h * width + d) * at(1, j, h * width + d)).sum::<f64>()
                };
                let scores: Vec<f64> = range.clone().map(|j| dot(j) * scale).collect();
                let highest = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - highest).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..width {
                    let value = |(j, w): (usize, &f64)| w / total * at(2, j, h * width + d);
                    want.push(range.clone().zip(&weights).map(value).sum::<f64>() as f32);
                }
            }
        }
    }
    want
}

fn bounds(lengths: &[usize]) -> Vec<u32> {
    let mut cu = vec![0u32];
    lengths.iter().for_each(|l| cu.push(cu[cu.len() - 1] + *l as u32));
    cu
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn attention_equals_the_naive_one_and_sees_only_its_own_sequence(
        seed in 0u64..1000, lengths in proptest::collection::vec(1usize..90, 1..5),
        heads in 1usize..4, width in 1usize..70, threads in 1usize..3,
    ) {
        let (cu, heads) = (bounds(&lengths), HeadShape { heads, width });
        let fused = values(seed, cu[cu.len() - 1] as usize * 3 * heads.heads * width);
        let want = naive(&fused, &cu, heads);
        let coarse: Vec<f32> = rounded::<bf16>(&fused).into_iter().map(bf16::to_f32).collect();
        let want_coarse = naive(&coarse, &cu, heads);
        for isa in Isa::available() {
            let got = on_threads(threads, || run::<f32>(isa, &fused, &cu, heads));
            assert_close(&got, &want, 1e-5, isa.name());
            let got = on_threads(threads, || run::<bf16>(isa, &coarse, &cu, heads));
            assert_close(&got, &want_coarse, 8e-3, isa.name());
        }
    }

    #[test]
    fn a_sequences_context_has_the_same_bits_alone(
        seed in 0u64..1000, lengths in proptest::collection::vec(1usize..90, 2..5), width in 1usize..40,
    ) {
        let (cu, heads) = (bounds(&lengths), HeadShape { heads: 2, width });
        let w = 2 * width;
        let fused = values(seed, cu[cu.len() - 1] as usize * 3 * w);
        for isa in Isa::available() {
            let together = on_threads(2, || (run::<f32>(isa, &fused, &cu, heads), run::<bf16>(isa, &fused, &cu, heads)));
            for pair in cu.windows(2) {
                let (from, to) = (pair[0] as usize, pair[1] as usize);
                let own = &fused[from * 3 * w..to * 3 * w];
                let alone = [0, (to - from) as u32];
                let single = on_threads(1, || (run::<f32>(isa, own, &alone, heads), run::<bf16>(isa, own, &alone, heads)));
                let rows = from * w..to * w;
                prop_assert!(together.0[rows.clone()] == single.0[..], "{}", isa.name());
                prop_assert!(together.1[rows] == single.1[..], "{}", isa.name());
            }
        }
    }
}

#[test]
fn long_sequences_are_summed_block_by_block() {
    // Beyond two blocks of keys, with scores that grow, so that every block moves the softmax's maximum.
    let (cu, heads) = (bounds(&[1300]), HeadShape { heads: 1, width: 8 });
    let mut fused = values(3, 1300 * 24);
    for (t, row) in fused.chunks_exact_mut(24).enumerate() {
        row[8..16].iter_mut().for_each(|k| *k *= 1.0 + t as f32 / 200.0);
    }
    let want = naive(&fused, &cu, heads);
    for isa in Isa::available() {
        assert_close(&run::<f32>(isa, &fused, &cu, heads), &want, 2e-5, isa.name());
        let coarse: Vec<f32> = rounded::<bf16>(&fused).into_iter().map(bf16::to_f32).collect();
        assert_close(&run::<bf16>(isa, &fused, &cu, heads), &naive(&coarse, &cu, heads), 1e-2, isa.name());
    }
}

#[test]
fn large_finite_scores_give_the_mean_of_equal_keys() {
    let heads = HeadShape { heads: 1, width: 32 };
    for size in [3e4, 1e5, 1.2e6, 1.1e9] {
        let mut fused = vec![size; 3 * 96];
        for (value, row) in [1.0, 2.0, 3.0].into_iter().zip(fused.chunks_exact_mut(96)) {
            row[64..].fill(value);
        }
        for isa in Isa::available() {
            let got = run::<f32>(isa, &fused, &[0, 3], heads);
            assert_close(&got, &[2.0; 96], 1e-5, &format!("{} {size}", isa.name()));
        }
    }
}
