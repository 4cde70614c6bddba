//! Each op's fast implementation against its reference, over shapes that are multiples of nothing, ranks 1 to 64, mixed
//! adapters, base rows and dtypes. The reference is reached by handing an op its plain forms: a plain weight, an arena.

use std::sync::Arc;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use polylora_kernels::extent::{ExtentLayout, HostExtent, SiteId, SiteShape};
use polylora_kernels::*;
use proptest::prelude::*;

fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / 8_388_608.0) - 1.0
        })
        .collect()
}

fn matrix(seed: u64, rows: usize, columns: usize) -> Tensor<2> {
    let data = TensorData::new(values(seed, rows * columns), [rows, columns]);
    Tensor::from_data(data, (&Device::flex(), DType::F32))
}

fn vector(seed: u64, len: usize) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values(seed, len), [len]), (&Device::flex(), DType::F32))
}

fn to_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn assert_close(got: Vec<f32>, want: Vec<f32>, tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "value {i} is {g}, the reference says {w}");
    }
}

/// An adapter over two sites of a fused layer: which it has, their ranks, gain and bias differ by seed.
fn adapter(seed: u64, inputs: usize, cut: usize, outputs: usize, rank: usize) -> Arc<HostExtent> {
    let shape = |site: u32, out_width: usize, rank: usize| SiteShape {
        site: SiteId(site),
        in_width: inputs,
        out_width,
        rank,
        has_gain: seed.is_multiple_of(2),
        has_bias: seed.is_multiple_of(3),
    };
    let mut shapes = vec![shape(0, cut, rank)];
    if !seed.is_multiple_of(5) {
        shapes.push(shape(1, outputs - cut, rank / 2));
    }
    let mut extent = HostExtent::zeroed(ExtentLayout::new(shapes, |_| 0));
    let random = values(seed + 100, extent.values().len());
    extent.values_mut().copy_from_slice(&random);
    Arc::new(extent)
}

struct Case {
    layer: Linear,
    reference: Linear,
    x: Tensor<2>,
    residual: Tensor<2>,
    norm: Norm,
    fast: LoraBatch,
    slow: LoraBatch,
}

fn case(seed: u64, inputs: usize, outputs: usize, ranks: &[usize], rows: &[(usize, Option<usize>)]) -> Case {
    let cut = outputs / 2;
    let spans = [(0, 0..cut), (1, cut..outputs)].map(|(id, columns)| SiteSpan { site: SiteId(id), columns });
    let layer = |weight| Linear {
        weight,
        bias: Some(vector(seed + 1, outputs)),
        activation: Activation::Gelu,
        sites: Arc::new(SiteGroup::new(spans.to_vec())),
    };
    let adapters: Vec<_> = ranks
        .iter()
        .enumerate()
        .map(|(i, rank)| adapter(seed + i as u64, inputs, cut, outputs, *rank))
        .collect();
    let segments = segments_of(rows.iter().map(|(len, a)| (*len, a.map(|a| a % ranks.len().max(1)))));
    let segments: Vec<_> = segments
        .into_iter()
        .map(|mut s| {
            s.adapter = s.adapter.filter(|_| !ranks.is_empty());
            s
        })
        .collect();
    let total: usize = rows.iter().map(|r| r.0).sum();
    // The arena holds the adapters in reverse, with holes of other values between.
    let capacity: usize = adapters.iter().map(|a| a.layout().len() + 32).sum::<usize>() + 16;
    let mut memory = AdapterMemory::arena(&Device::flex(), DType::F32, capacity);
    let mut at = 16;
    let mut placed: Vec<PlacedAdapter> = vec![];
    for extent in adapters.iter().rev() {
        memory.store(at, extent);
        placed.insert(0, PlacedAdapter { extent: extent.clone(), offset: at });
        at += extent.layout().len() + 32;
    }
    let weight = matrix(seed, outputs, inputs);
    Case {
        layer: layer(Weight::prepare(weight.clone())),
        reference: layer(Weight::plain(weight)),
        x: matrix(seed + 2, total, inputs),
        residual: matrix(seed + 3, total, outputs),
        norm: Norm { gamma: vector(seed + 4, outputs), beta: vector(seed + 5, outputs), epsilon: 1e-5 },
        fast: LoraBatch::new(segments.clone(), placed.clone(), AdapterMemory::HostAlias),
        slow: LoraBatch::new(segments, placed, memory),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn linear_layers_equal_their_reference(
        seed in 0u64..500, inputs in 1usize..70, outputs in 8usize..80,
        ranks in proptest::collection::vec(1usize..65, 0..4),
        rows in proptest::collection::vec((0usize..12, proptest::option::of(0usize..4)), 1..8),
    ) {
        prop_assume!(rows.iter().any(|r| r.0 > 0));
        let c = case(seed, inputs, outputs, &ranks, &rows);
        assert_close(
            to_vec(linear(c.x.clone(), &c.layer, &c.fast)),
            to_vec(linear(c.x.clone(), &c.reference, &c.slow)),
            2e-4,
        );
        assert_close(
            to_vec(linear_add(c.x.clone(), &c.layer, c.residual.clone(), &c.fast)),
            to_vec(linear_add(c.x.clone(), &c.reference, c.residual.clone(), &c.slow)),
            2e-4,
        );
        assert_close(
            to_vec(linear_add_norm(c.x.clone(), &c.layer, c.residual.clone(), &c.norm, &c.fast)),
            to_vec(linear_add_norm(c.x, &c.reference, c.residual, &c.norm, &c.slow)),
            2e-3,
        );
        prop_assert_eq!(c.fast.launches(), c.slow.launches());
    }

    #[test]
    fn the_reference_reads_host_extents_as_it_reads_an_arena(
        seed in 0u64..500, ranks in proptest::collection::vec(1usize..20, 1..4),
        rows in proptest::collection::vec((1usize..6, proptest::option::of(0usize..4)), 1..8),
    ) {
        let c = case(seed, 24, 40, &ranks, &rows);
        // A plain weight sends Flex to the reference even with host extents.
        assert_close(
            to_vec(linear(c.x.clone(), &c.reference, &c.fast)),
            to_vec(linear(c.x, &c.reference, &c.slow)),
            1e-5,
        );
    }

    #[test]
    fn attention_and_pooling_equal_their_reference(
        seed in 0u64..500, lengths in proptest::collection::vec(1usize..40, 1..5),
        heads in 1usize..4, width in 1usize..20,
    ) {
        let device = Device::flex();
        let sequences = Sequences::new(&lengths, &device);
        let attention = Attention {
            heads: HeadShape { heads, width },
            scale: 1.0 / (width as f32).sqrt(),
            mask: AttentionMask::Full,
        };
        let qkv = matrix(seed, sequences.rows(), 3 * heads * width);
        // f64 is not f32: the reference computes it.
        let fast = attention_packed(qkv.clone(), &sequences, attention);
        let slow = attention_packed(qkv.cast(DType::F64), &sequences, attention).cast(DType::F32);
        assert_close(to_vec(fast.clone()), to_vec(slow), 1e-5);
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Max, Pooling::LastToken] {
            for normalize in [false, true] {
                let slow = pool(fast.clone().cast(DType::F64), &sequences, pooling, normalize);
                assert_close(to_vec(pool(fast.clone(), &sequences, pooling, normalize)), to_vec(slow), 1e-5);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn norms_gates_and_lookups_equal_their_reference(
        seed in 0u64..500, rows in 1usize..40, width in 1usize..200,
        activation in prop::sample::select(Activation::ALL.to_vec()),
    ) {
        let (x, gamma) = (matrix(seed, rows, 2 * width), vector(seed + 1, 2 * width));
        let norm = RmsNorm { gamma, epsilon: 1e-5 };
        let gates = x.clone().mul_scalar(6.0);
        let ids = values(seed + 2, 30).into_iter().map(|v| (v.abs() * rows as f32) as i32).collect::<Vec<_>>();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [30]), (&Device::flex(), DType::I32));
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 8e-3)] {
            // f64 is not f32: the reference computes it.
            let fast = |x: &Tensor<2>| x.clone().cast(dtype);
            let slow = |x: &Tensor<2>| x.clone().cast(dtype).cast(DType::F64);
            let (got, want) = (rms_norm(fast(&x), &norm), rms_norm(slow(&x), &norm));
            prop_assert_eq!(got.dtype(), dtype);
            assert_close(to_vec(got.cast(DType::F32)), to_vec(want.cast(DType::F32)), tolerance);
            let (got, want) = (gated(fast(&gates), activation), gated(slow(&gates), activation));
            prop_assert_eq!(got.dtype(), dtype);
            assert_close(to_vec(got.cast(DType::F32)), to_vec(want.cast(DType::F32)), tolerance);
            let (got, want) = (embed(ids.clone(), &fast(&x)), embed(ids.clone(), &slow(&x)));
            prop_assert_eq!(to_vec(got.cast(DType::F32)), to_vec(want.cast(DType::F32)));
        }
    }
}

#[test]
fn embedding_equals_its_reference() {
    let device = Device::flex();
    let ints = |v: &[i32]| {
        Tensor::<1, Int>::from_data(TensorData::new(v.to_vec(), [v.len()]), (&device, DType::I32))
    };
    let norm = Norm { gamma: vector(3, 20), beta: vector(4, 20), epsilon: 1e-12 };
    let tables = Embedding { words: matrix(1, 9, 20), positions: matrix(2, 5, 20), norm: norm.clone() };
    let wide = Embedding {
        words: tables.words.clone().cast(DType::F64),
        positions: tables.positions.clone().cast(DType::F64),
        norm,
    };
    let (ids, positions) = (ints(&[8, 0, 3, 3]), ints(&[0, 1, 2, 0]));
    let slow = embed_norm(ids.clone(), positions.clone(), &wide).cast(DType::F32);
    assert_close(to_vec(embed_norm(ids, positions, &tables)), to_vec(slow), 1e-5);
}

#[test]
fn a_batch_without_effect_launches_nothing() {
    let c = case(4, 16, 24, &[4, 8], &[(3, Some(0)), (2, None), (4, Some(1))]);
    linear(c.x.clone(), &c.layer, &c.fast);
    assert_eq!(c.fast.launches(), 1);
    let base = LoraBatch::base();
    linear(c.x.clone(), &c.layer, &base);
    assert_eq!(base.launches(), 0);
    // The adapters are there, but bring nothing to this layer's sites.
    let elsewhere = SiteGroup::new(vec![SiteSpan { site: SiteId(7), columns: 0..24 }]);
    let layer = Linear { sites: Arc::new(elsewhere), ..c.layer };
    linear(c.x, &layer, &c.fast);
    assert_eq!(c.fast.launches(), 1);
}

#[test]
fn sixteen_bit_layers_follow_the_f32_ones() {
    let c = case(4, 48, 64, &[4, 8], &[(3, Some(0)), (2, None), (4, Some(1))]);
    let want = to_vec(linear(c.x.clone(), &c.layer, &c.fast));
    for dtype in [DType::F16, DType::BF16] {
        let weight = Tensor::<2>::from_data(
            TensorData::new(c.layer.weight.to_f32(), [64, 48]),
            (&Device::flex(), DType::F32),
        );
        let layer = Linear { weight: Weight::prepare(weight.cast(dtype)), ..c.layer.clone() };
        let got = linear(c.x.clone().cast(dtype), &layer, &c.fast);
        assert_eq!(got.dtype(), dtype);
        assert_close(got.cast(DType::F32).into_data().iter::<f32>().collect(), want.clone(), 0.08);
        let residual = c.residual.clone().cast(dtype);
        let got = linear_add(c.x.clone().cast(dtype), &layer, residual.clone(), &c.fast);
        assert_eq!(got.dtype(), dtype);
        let added = c.residual.clone().add(linear(c.x.clone(), &c.layer, &c.fast));
        assert_close(to_vec(got.cast(DType::F32)), to_vec(added), 0.08);
    }
}

#[test]
fn more_memory_than_there_is_is_an_error_and_not_an_abort() {
    let device = Device::flex();
    assert!(matches!(AdapterMemory::new(&device, DType::F32, usize::MAX), Ok(AdapterMemory::HostAlias)));
    assert!(matches!(AdapterMemory::new(&device, DType::BF16, usize::MAX), Ok(AdapterMemory::HostAlias)));
    assert!(matches!(AdapterMemory::new(&device, DType::F16, 64), Ok(AdapterMemory::Arena(_))));
    let refused = AdapterMemory::new(&device, DType::F16, usize::MAX / 4).expect_err("refused");
    assert!(refused.to_string().contains("--lora-memory"));
}
