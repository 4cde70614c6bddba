//! Pooling and embedding.

use half::bf16;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::*;
use proptest::prelude::*;

use crate::layer::rounded;
use crate::{assert_close, values};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn pooling_equals_the_naive_one(
        seed in 0u64..1000, lengths in proptest::collection::vec(1usize..20, 1..5), width in 1usize..50,
    ) {
        let mut cu = vec![0u32];
        lengths.iter().for_each(|l| cu.push(cu[cu.len() - 1] + *l as u32));
        let hidden16 = rounded::<bf16>(&values(seed, cu[cu.len() - 1] as usize * width));
        let hidden: Vec<f32> = hidden16.iter().map(|v| v.to_f32()).collect();
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Max, Pooling::LastToken] {
            for normalize in [false, true] {
                let mut want = vec![];
                for pair in cu.windows(2) {
                    let rows: Vec<&[f32]> =
                        hidden[pair[0] as usize * width..pair[1] as usize * width].chunks(width).collect();
                    let column = |c: usize| rows.iter().map(move |r| r[c] as f64);
                    let row: Vec<f64> = (0..width).map(|c| match pooling {
                        Pooling::Mean => column(c).sum::<f64>() / rows.len() as f64,
                        Pooling::Cls => rows[0][c] as f64,
                        Pooling::LastToken => rows[rows.len() - 1][c] as f64,
                        Pooling::Max => column(c).fold(f64::MIN, f64::max),
                    }).collect();
                    let norm = if normalize { row.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12) } else { 1.0 };
                    want.extend(row.into_iter().map(|v| (v / norm) as f32));
                }
                for isa in Isa::available() {
                    let mut got = vec![f32::NAN; want.len()];
                    pool(isa, &hidden, &cu, (pooling, normalize), &mut got);
                    assert_close(&got, &want, 1e-5, isa.name());
                    let mut got = vec![f32::NAN; want.len()];
                    pool(isa, &hidden16, &cu, (pooling, normalize), &mut got);
                    assert_close(&got, &want, 1e-5, isa.name());
                }
            }
        }
    }
}

#[test]
fn embedding_adds_word_and_position_and_normalises() {
    let (width, ids, positions) = (20, [3u32, 0, 5], [0u32, 1, 2]);
    let (words, table) = (values(1, 6 * width), values(2, 4 * width));
    let (gamma, beta) = (values(3, width), values(4, width));
    for isa in Isa::available() {
        let mut got = vec![f32::NAN; 3 * width];
        let norm = NormParams { gamma: &gamma, beta: &beta, epsilon: 1e-12 };
        let call =
            EmbeddingCall { ids: &ids, positions: &positions, words: &words, position_table: &table, norm };
        embed_norm(isa, call, &mut got);
        let mut want = vec![];
        for t in 0..3 {
            let row: Vec<f64> = (0..width)
                .map(|c| {
                    words[ids[t] as usize * width + c] as f64
                        + table[positions[t] as usize * width + c] as f64
                })
                .collect();
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
            want.extend(
                (0..width)
                    .map(|c| ((row[c] - mean) / variance.sqrt() * gamma[c] as f64 + beta[c] as f64) as f32),
            );
        }
        assert_close(&got, &want, 1e-5, isa.name());
        let (words, table) = (rounded::<bf16>(&words), rounded::<bf16>(&table));
        let call =
            EmbeddingCall { ids: &ids, positions: &positions, words: &words, position_table: &table, norm };
        let mut got = vec![bf16::NAN; 3 * width];
        embed_norm(isa, call, &mut got);
        let got: Vec<f32> = got.into_iter().map(bf16::to_f32).collect();
        assert_close(&got, &want, 2e-2, isa.name());
    }
}
