//! Paged keys and values on the CPU: the kernels against the plain reference, and the reference against what it stands for.

use burn::tensor::{DType, Device, Tensor, TensorData};
use polylora_kernels::{
    HeadNorms, KvHeads, KvLayer, KvShape, PagedAttention, PagedRows, PagedSequence, QkvForm, RmsNorm, Rotary,
    attention_paged, copy_blocks, store_kv,
};
use proptest::prelude::*;

fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / 8_388_608.0) - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], dtype: DType) -> Tensor<D> {
    Tensor::<D>::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F32)).cast(dtype)
}

fn to_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().iter::<f32>().collect()
}

fn assert_close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "{what}: value {i} is {g}, expected {w}");
    }
}

/// Sequences of some length, of which the last rows are new, over blocks that lie anywhere.
struct Case {
    shape: KvShape,
    sequences: Vec<PagedSequence>,
    /// By sequence: `[context + rows, (query + 2 kv) * width]`.
    qkv: Vec<Vec<f32>>,
    form: QkvForm,
    attention: PagedAttention,
}

impl Case {
    fn new(
        seed: u64,
        heads: KvHeads,
        block_size: usize,
        lengths: &[(usize, usize)],
        window: Option<usize>,
    ) -> Self {
        let mut next = 0;
        let sequences: Vec<_> = lengths
            .iter()
            .map(|(context, rows)| {
                let count = (context + rows).div_ceil(block_size) as u32;
                let blocks = (next..next + count).rev().map(|block| block * 2).collect();
                next += count;
                PagedSequence { rows: *rows, context: *context, blocks }
            })
            .collect();
        let length = |s: &PagedSequence| s.context + s.rows;
        let qkv = sequences
            .iter()
            .zip(seed..)
            .map(|(s, seed)| values(seed, length(s) * heads.qkv_columns()))
            .collect();
        let (positions, half) = (sequences.iter().map(length).max().unwrap_or(0), heads.width / 2);
        let angle =
            |i: usize| (i / half.max(1)) as f32 * 10_000f32.powf(-((i % half.max(1)) as f32) / half as f32);
        let table = |f: fn(f32) -> f32| {
            tensor((0..positions * half).map(|i| f(angle(i))).collect(), [positions, half], DType::F32)
        };
        let norm = |seed| RmsNorm {
            gamma: tensor(values(seed, heads.width), [heads.width], DType::F32),
            epsilon: 1e-6,
        };
        Self {
            shape: KvShape { blocks: 2 * next as usize + 1, block_size, heads },
            sequences,
            qkv,
            form: QkvForm {
                heads,
                rotary: Rotary { cos: table(f32::cos), sin: table(f32::sin) },
                head_norms: seed.is_multiple_of(2).then(|| HeadNorms { q: norm(81), k: norm(82) }),
            },
            attention: PagedAttention { heads, scale: 1.0 / (heads.width as f32).sqrt(), window },
        }
    }

    fn rows(&self, sequences: &[PagedSequence]) -> PagedRows {
        PagedRows::new(sequences, self.shape.block_size, &Device::flex())
    }

    /// The rows `from..to` of a sequence.
    fn qkv(&self, sequence: usize, from: usize, to: usize) -> Vec<f32> {
        let columns = self.form.heads.qkv_columns();
        self.qkv[sequence][from * columns..to * columns].to_vec()
    }

    /// Contexts one after the other, then all new rows in one batch: the rows' queries and context, and the cache.
    fn run(&self, mut cache: KvLayer) -> (Vec<f32>, Vec<f32>, KvLayer) {
        let columns = self.form.heads.qkv_columns();
        for (i, sequence) in self.sequences.iter().enumerate().filter(|(_, s)| s.context > 0) {
            let before =
                PagedSequence { rows: sequence.context, context: 0, blocks: sequence.blocks.clone() };
            let qkv = tensor(self.qkv(i, 0, sequence.context), [sequence.context, columns], cache.dtype());
            store_kv(qkv, &mut cache, &self.rows(&[before]), &self.form);
        }
        let rows = self.rows(&self.sequences);
        let new = self.sequences.iter().enumerate();
        let qkv = new.flat_map(|(i, s)| self.qkv(i, s.context, s.context + s.rows)).collect();
        let q = store_kv(tensor(qkv, [rows.rows(), columns], cache.dtype()), &mut cache, &rows, &self.form);
        let out = attention_paged(q.clone(), &cache, &rows, self.attention);
        (to_vec(q), to_vec(out), cache)
    }

    fn plain(&self, dtype: DType) -> KvLayer {
        KvLayer::plain(self.shape, &Device::flex(), dtype).expect("memory")
    }

    fn fast(&self, dtype: DType) -> KvLayer {
        KvLayer::new(self.shape, &Device::flex(), dtype).expect("memory")
    }
}

fn heads() -> impl Strategy<Value = KvHeads> {
    (1usize..4, 1usize..9, 1usize..40).prop_map(|(kv, sharing, width)| KvHeads {
        query: kv * sharing,
        kv,
        width,
    })
}

fn lengths() -> impl Strategy<Value = Vec<(usize, usize)>> {
    proptest::collection::vec((0usize..40, prop_oneof![Just(1usize), 1usize..20]), 1..4)
}

/// Dense causal attention of `[length, ..]` queries, keys and values that are laid out one after the other, in f64.
fn dense(case: &Case, q: &[f32], held: &[f32]) -> Vec<f32> {
    let KvHeads { query, kv, width } = case.form.heads;
    let mut out = vec![];
    let mut row = 0;
    for sequence in &case.sequences {
        for position in sequence.context..sequence.context + sequence.rows {
            let first = case.attention.window.map_or(0, |window| (position + 1).saturating_sub(window));
            for head in 0..query {
                let of_token = |position: usize, part: usize| {
                    let block = sequence.blocks[position / case.shape.block_size] as usize;
                    let slot = block * case.shape.block_size + position % case.shape.block_size;
                    &held[(slot * 2 * kv + part * kv + head / (query / kv)) * width..][..width]
                };
                let q = &q[(row * query + head) * width..][..width];
                let dot = |k: &[f32]| q.iter().zip(k).map(|(q, k)| *q as f64 * *k as f64).sum::<f64>();
                let weights: Vec<f64> = (first..=position)
                    .map(|key| (dot(of_token(key, 0)) * case.attention.scale as f64).exp())
                    .collect();
                let total: f64 = weights.iter().sum();
                for column in 0..width {
                    let values = (first..=position).map(|key| of_token(key, 1)[column] as f64);
                    out.push((weights.iter().zip(values).map(|(w, v)| w * v).sum::<f64>() / total) as f32);
                }
            }
            row += 1;
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_reference_is_dense_causal_attention(
        seed in 0u64..500, heads in heads(), block_size in 1usize..20, lengths in lengths(),
        window in proptest::option::of(1usize..40),
    ) {
        let case = Case::new(seed, heads, block_size, &lengths, window);
        let (q, out, cache) = case.run(case.plain(DType::F32));
        assert_close(&out, &dense(&case, &q, &cache.to_f32()), 1e-5, "reference");
    }

    #[test]
    fn the_kernels_equal_the_reference(
        seed in 0u64..500, heads in heads(), block_size in 1usize..40, lengths in lengths(),
        window in proptest::option::of(1usize..40),
    ) {
        let case = Case::new(seed, heads, block_size, &lengths, window);
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 2e-2)] {
            let (q, out, cache) = case.run(case.fast(dtype));
            let (want_q, want, plain) = case.run(case.plain(dtype));
            assert_close(&q, &want_q, tolerance, "queries");
            assert_close(&cache.to_f32(), &plain.to_f32(), tolerance, "the cache");
            assert_close(&out, &want, tolerance, "attention");
        }
    }

    #[test]
    fn queries_and_keys_are_turned_as_complex_numbers(
        seed in 0u64..500, heads in heads(), block_size in 1usize..20, rows in 1usize..30,
    ) {
        let mut case = Case::new(seed, heads, block_size, &[(0, rows)], None);
        case.form.head_norms = None;
        let KvHeads { query, kv, width } = heads;
        let half = width / 2;
        for cache in [case.plain(DType::F32), case.fast(DType::F32)] {
            let (q, _, cache) = case.run(cache);
            let held = cache.to_f32();
            for position in 0..rows {
                let slot = case.sequences[0].blocks[position / block_size] as usize * block_size + position % block_size;
                for head in 0..query + kv {
                    let x = &case.qkv[0][(position * (query + 2 * kv) + head) * width..][..width];
                    let got = if head < query {
                        &q[(position * query + head) * width..][..width]
                    } else {
                        &held[(slot * 2 * kv + head - query) * width..][..width]
                    };
                    // (x1 + i x2) e^(i m theta), RoFormer's eq. 12 on halves.
                    for j in 0..half {
                        let angle = position as f64 * 10_000f64.powf(-(j as f64) / half as f64);
                        let (re, im) = (x[j] as f64, x[half + j] as f64);
                        let want = [re * angle.cos() - im * angle.sin(), re * angle.sin() + im * angle.cos()];
                        assert_close(&[got[j], got[half + j]], &want.map(|v| v as f32), 1e-5, "a pair");
                    }
                    prop_assert_eq!(&got[2 * half..], &x[2 * half..]);
                }
            }
        }
    }
}

#[test]
fn narrower_rotations_leave_the_other_columns_alone() {
    let heads = KvHeads { query: 2, kv: 1, width: 24 };
    let mut case = Case::new(3, heads, 8, &[(0, 5)], None);
    let Rotary { cos, sin } = case.form.rotary.clone();
    case.form.rotary = Rotary { cos: cos.slice([0..5, 0..4]), sin: sin.slice([0..5, 0..4]) };
    let (fast, plain) = (case.run(case.fast(DType::F32)), case.run(case.plain(DType::F32)));
    assert_close(&fast.0, &plain.0, 1e-6, "queries");
    for (row, q) in fast.0.chunks_exact(24).enumerate() {
        let x = &case.qkv[0][(row / 2 * 4 + row % 2) * 24..][..24];
        assert_eq!(q[8..], x[8..]);
        assert!(row < 2 || q[..8] != x[..8], "row {row} is turned");
    }
}

#[test]
fn copied_blocks_are_the_others_and_no_other_is_touched() {
    let heads = KvHeads { query: 2, kv: 2, width: 10 };
    let case = Case::new(1, heads, 3, &[(0, 20)], None);
    for dtype in [DType::F32, DType::BF16] {
        for cache in [case.fast(dtype), case.plain(dtype)] {
            let (.., mut cache) = case.run(cache);
            let before = cache.to_f32();
            copy_blocks(&mut cache, &[(4, 1), (0, 5)]);
            let after = cache.to_f32();
            let len = before.len() / case.shape.blocks;
            for block in 0..case.shape.blocks {
                let from = match block {
                    1 => 4,
                    5 => 0,
                    _ => block,
                };
                assert_eq!(after[block * len..][..len], before[from * len..][..len], "block {block}");
            }
            copy_blocks(&mut cache, &[]);
            assert_eq!(cache.to_f32(), after);
        }
    }
}

#[test]
fn a_cache_has_as_many_bytes_as_its_blocks() {
    let heads = KvHeads { query: 14, kv: 2, width: 64 };
    let device = Device::flex();
    for (dtype, bytes) in [(DType::F32, 4), (DType::BF16, 2), (DType::F16, 2)] {
        assert_eq!(KvLayer::block_bytes(16, heads, &device, dtype), 16 * 2 * 2 * 64 * bytes);
    }
    let shape = KvShape { blocks: usize::MAX / 4096, block_size: 16, heads };
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let refused = KvLayer::new(shape, &device, dtype).expect_err("refused");
        assert!(refused.to_string().contains("ask for fewer blocks"), "{refused}");
    }
}
