//! The kernels on every GPU there is, against the reference on the CPU.
//!
//! A software Vulkan adapter counts: it runs the same source. Where no adapter is found, the tests say so on stderr;
//! `POLYLORA_REQUIRE_WGPU=1` makes that a failure.

mod gpu {
    mod decoder_ops;
    pub mod devices;
    pub mod layers;
    mod paged;
    pub mod values;
}

use gpu::devices::{Gpu, on_every_gpu};
use gpu::layers::{Fleet, Layer, Popularity};
use gpu::values::{assert_close, matrix, read, tolerance, vector};

use polylora_kernels::launches::Kernel;
use polylora_kernels::{
    Activation, AdapterMemory, Attention, AttentionMask, Embedding, HeadShape, LoraBatch, Norm, Pooling,
    Sequences, Weight, attention_packed, embed_norm, largest_buffer, linear, linear_add_norm, pool,
};
use proptest::prelude::*;

fn check(gpu: &Gpu, layer: &Layer, fleet: &Fleet) {
    let want = layer.on_cpu(fleet, gpu.rounding);
    let got = layer.on(gpu, fleet);
    let close = tolerance(gpu.dtype, layer.inputs);
    assert_close(&got.linear, &want.linear, close, &format!("{} linear {layer:?} {fleet:?}", gpu.name));
    assert_close(&got.added, &want.added, close, &format!("{} add {layer:?} {fleet:?}", gpu.name));
    // The norm divides by a spread that grows with the product, and so do the roundings before it.
    let close = tolerance(gpu.dtype, 1).mul_add(8.0, 4.0 * tolerance(burn::tensor::DType::F32, layer.inputs));
    assert_close(&got.normed, &want.normed, close, &format!("{} add_norm {layer:?} {fleet:?}", gpu.name));
}

#[test]
fn lora_equals_its_reference_at_every_rank() {
    on_every_gpu(|gpu| {
        let layer = Layer { inputs: 96, outputs: 80, activation: Activation::Gelu, seed: 1 };
        for rank in [1, 2, 7, 8, 9, 16, 24, 31, 32, 33, 64, 128, 255, 256] {
            for rows in
                [vec![(1, Some(0)), (2, None), (1, Some(1))], vec![(19, Some(0)), (3, None), (70, Some(1))]]
            {
                check(gpu, &layer, &Fleet { ranks: vec![rank, 257 - rank], rows });
            }
        }
    });
}

#[test]
fn lora_equals_its_reference_whatever_the_popularity() {
    on_every_gpu(|gpu| {
        let layer = Layer { inputs: 64, outputs: 48, activation: Activation::Identity, seed: 2 };
        for popularity in Popularity::ALL {
            for (rows, adapters) in [(13, 13), (100, 13), (300, 5)] {
                check(gpu, &layer, &popularity.fleet(rows, adapters));
            }
        }
    });
}

#[test]
fn segments_of_every_length_equal_their_reference() {
    on_every_gpu(|gpu| {
        let layer = Layer { inputs: 40, outputs: 36, activation: Activation::Relu, seed: 3 };
        for length in [1, 3, 4, 15, 16, 17, 63, 64, 65, 130] {
            let rows =
                vec![(length, Some(0)), (0, Some(1)), (1, Some(2)), (length + 1, None), (length, Some(1))];
            check(gpu, &layer, &Fleet { ranks: vec![8, 16, 4], rows });
        }
    });
}

#[test]
fn widths_that_are_multiples_of_nothing_equal_their_reference() {
    on_every_gpu(|gpu| {
        for (i, (inputs, outputs)) in
            [(1, 8), (3, 10), (33, 17), (127, 65), (130, 514), (384, 1152), (1536, 384), (70, 2049)]
                .into_iter()
                .enumerate()
        {
            let activation = [Activation::Gelu, Activation::GeluTanh, Activation::Identity][i % 3];
            let layer = Layer { inputs, outputs, activation, seed: 10 + i as u64 };
            let rows = vec![(5, Some(0)), (2, None), (21, Some(1)), (1, Some(2))];
            check(gpu, &layer, &Fleet { ranks: vec![8, 3, 20], rows });
            check(gpu, &layer, &Fleet { ranks: vec![], rows: vec![(9, None)] });
        }
    });
}

#[test]
fn wide_layers_equal_their_reference_row_by_row() {
    on_every_gpu(|gpu| {
        // Every width of a BGMV workgroup, and every number of vectors that a unit of a normalising one holds.
        for (inputs, outputs) in [(1536, 200), (4096, 1030), (2050, 2047), (300, 4096), (64, 8192)] {
            let layer = Layer { inputs, outputs, activation: Activation::Identity, seed: 20 };
            let before = [Kernel::BgmvShrink, Kernel::AddNorm].map(Kernel::launches);
            check(
                gpu,
                &layer,
                &Fleet { ranks: vec![8, 12], rows: vec![(1, Some(0)), (2, None), (1, Some(1))] },
            );
            let after = [Kernel::BgmvShrink, Kernel::AddNorm].map(Kernel::launches);
            // Three shrinks, one a layer, and an end with norm: not the fallback.
            assert_eq!((after[0] - before[0], after[1] - before[1]), (3, 1), "{inputs}x{outputs}");
        }
    });
}

#[test]
fn adapters_move_what_they_are_mixed_into() {
    on_every_gpu(|gpu| {
        let layer = Layer { inputs: 96, outputs: 64, activation: Activation::Identity, seed: 21 };
        for rank in [1, 16, 256] {
            let base = layer.on(gpu, &Fleet { ranks: vec![], rows: vec![(20, None)] });
            let mixed = layer.on(gpu, &Fleet { ranks: vec![rank], rows: vec![(20, Some(0))] });
            let close = tolerance(gpu.dtype, layer.inputs);
            let apart = |(a, b): (&f32, &f32)| (a - b).abs() > 3.0 * close * (1.0 + a.abs());
            let moved = base.linear.iter().zip(&mixed.linear).filter(|pair| apart(*pair)).count();
            assert!(
                moved * 3 > base.linear.len(),
                "{}: {moved} of {} values moved",
                gpu.name,
                base.linear.len()
            );
        }
    });
}

#[test]
fn adapters_without_low_rank_parts_and_layers_without_bias_equal_their_reference() {
    on_every_gpu(|gpu| {
        let layer = Layer { inputs: 33, outputs: 28, activation: Activation::Gelu, seed: 22 };
        // Ranks 0: gain, bias, both or none, by number.
        let rows = vec![(3, Some(0)), (2, Some(1)), (1, Some(3)), (2, None), (20, Some(4))];
        check(gpu, &layer, &Fleet { ranks: vec![0; 5], rows: rows.clone() });
        let fleet = Fleet { ranks: vec![0, 8, 0, 3, 1], rows };
        check(gpu, &layer, &fleet);
        let on = |gpu: &Gpu| {
            let mut parts = layer.parts(gpu);
            (parts.linear.bias, parts.normed.bias) = (None, None);
            let (lora, rows) = fleet.batch(gpu, &layer);
            let x = gpu.put(matrix(63, rows, 33));
            let residual = gpu.put(matrix(64, rows, 28));
            let normed = linear_add_norm(x.clone(), &parts.normed, residual, &parts.norm, &lora);
            (read(linear(x, &parts.linear, &lora)), read(normed))
        };
        let (got, want) = (on(gpu), on(&gpu.reference()));
        assert_close(&got.0, &want.0, tolerance(gpu.dtype, 33), &gpu.name);
        assert_close(&got.1, &want.1, 8.0 * tolerance(gpu.dtype, 1), &gpu.name);
    });
}

#[test]
fn an_empty_batch_is_an_empty_result() {
    on_every_gpu(|gpu| {
        let layer = Layer { inputs: 24, outputs: 16, activation: Activation::Gelu, seed: 4 };
        let got = layer.on(gpu, &Fleet { ranks: vec![4], rows: vec![(0, Some(0))] });
        assert!(got.linear.is_empty() && got.added.is_empty() && got.normed.is_empty());
    });
}

#[test]
fn attention_equals_its_reference() {
    on_every_gpu(|gpu| {
        for (heads, width) in [(12, 32), (2, 64), (1, 7), (3, 20), (2, 96), (1, 128), (2, 130), (1, 256)] {
            for lengths in [vec![1], vec![31, 32, 33], vec![5, 1, 100, 64]] {
                let attention = Attention {
                    heads: HeadShape { heads, width },
                    scale: 1.0 / (width as f32).sqrt(),
                    mask: AttentionMask::Full,
                };
                let rows = lengths.iter().sum();
                let qkv = matrix(7, rows, 3 * heads * width);
                let on = |gpu: &Gpu| {
                    let sequences = Sequences::new(&lengths, &gpu.device);
                    read(attention_packed(gpu.put(qkv.clone()), &sequences, attention))
                };
                let close = tolerance(gpu.dtype, width);
                assert_close(
                    &on(gpu),
                    &on(&gpu.reference()),
                    close,
                    &format!("{} {heads}x{width} {lengths:?}", gpu.name),
                );
            }
        }
    });
}

#[test]
fn pooling_equals_its_reference() {
    on_every_gpu(|gpu| {
        for width in [384, 20, 7, 1030, 4096, 2047] {
            let lengths = [1, 40, 3, 17];
            let hidden = matrix(8, 61, width);
            for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Max, Pooling::LastToken] {
                for normalize in [false, true] {
                    let on = |gpu: &Gpu| {
                        let sequences = Sequences::new(&lengths, &gpu.device);
                        read(pool(gpu.put(hidden.clone()), &sequences, pooling, normalize))
                    };
                    let close = tolerance(gpu.dtype, 1);
                    let what = format!("{} {width} {pooling:?} {normalize}", gpu.name);
                    assert_close(&on(gpu), &on(&gpu.reference()), close, &what);
                }
            }
        }
    });
}

#[test]
fn embedding_equals_its_reference() {
    on_every_gpu(|gpu| {
        for width in [384, 20, 33, 1028, 3000, 8192] {
            let on = |gpu: &Gpu| {
                let norm = Norm {
                    gamma: gpu.put(vector(3, width)),
                    beta: gpu.put(vector(4, width)),
                    epsilon: 1e-12,
                };
                let tables = Embedding {
                    words: gpu.put(matrix(1, 11, width)),
                    positions: gpu.put(matrix(2, 6, width)),
                    norm,
                };
                let ids = [10, 0, 3, 3, 7];
                read(embed_norm(gpu.ints(&ids), gpu.ints(&[0, 1, 2, 0, 5]), &tables))
            };
            let close = 4.0 * tolerance(gpu.dtype, 1);
            assert_close(&on(gpu), &on(&gpu.reference()), close, &format!("{} {width}", gpu.name));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_mixture_equals_its_reference(
        seed in 0u64..500, inputs in 1usize..100, outputs in 8usize..140,
        ranks in proptest::collection::vec(1usize..65, 0..5),
        rows in proptest::collection::vec((0usize..40, proptest::option::of(0usize..5)), 1..9),
    ) {
        let layer = Layer { inputs, outputs, activation: Activation::Gelu, seed };
        on_every_gpu(|gpu| check(gpu, &layer, &Fleet { ranks: ranks.clone(), rows: rows.clone() }));
    }
}

#[test]
fn more_workgroups_than_one_dimension_has_are_all_run() {
    on_every_gpu(|gpu| {
        // One tile a row, and the CPU's kernels as the other side: the plain reference would copy everything for each row.
        let rows = 70_000;
        let layer = Layer { inputs: 8, outputs: 8, activation: Activation::Identity, seed: 12 };
        let fleet = Fleet { ranks: vec![4, 4], rows: (0..rows).map(|row| (1, Some(row % 2))).collect() };
        let x = matrix(62, rows, 8);
        let cpu = Gpu { oracle: false, ..gpu.reference() };
        let (lora, _) = fleet.batch(&cpu, &layer);
        let want = read(linear(x.clone(), &layer.parts(&cpu).linear, &lora.in_host_memory()));
        let (lora, _) = fleet.batch(gpu, &layer);
        let got = read(linear(gpu.put(x), &layer.parts(gpu).linear, &lora));
        assert_close(&got, &want, tolerance(gpu.dtype, 8), &gpu.name);
        let ids: Vec<i32> = (0..rows as i32).map(|row| row % 5).collect();
        let on = |gpu: &Gpu| {
            let norm = Norm { gamma: gpu.put(vector(3, 8)), beta: gpu.put(vector(4, 8)), epsilon: 1e-5 };
            let (words, positions) = (gpu.put(matrix(1, 5, 8)), gpu.put(matrix(2, 5, 8)));
            read(embed_norm(gpu.ints(&ids), gpu.ints(&ids), &Embedding { words, positions, norm }))
        };
        assert_close(&on(gpu), &on(&cpu), 4.0 * tolerance(gpu.dtype, 1), &gpu.name);
    });
}

#[test]
fn our_kernels_run_and_only_where_they_are_needed() {
    on_every_gpu(|gpu| {
        let layer = Layer { inputs: 32, outputs: 32, activation: Activation::Gelu, seed: 5 };
        let launched = |fleet: &Fleet| {
            let before = Kernel::ALL.map(Kernel::launches);
            layer.on(gpu, fleet);
            let after = Kernel::ALL.map(Kernel::launches);
            let changed = Kernel::ALL.into_iter().zip(before.iter().zip(after)).filter(|(_, (b, a))| a > b);
            changed.map(|(kernel, _)| kernel).collect::<Vec<_>>()
        };
        let rows = |length| vec![(length, Some(0)), (4, None), (length, Some(1))];
        let base = launched(&Fleet { ranks: vec![], rows: vec![(40, None)] });
        assert_eq!(base, [Kernel::BiasActivation, Kernel::AddNorm]);
        let decode = launched(&Fleet { ranks: vec![8, 8], rows: rows(1) });
        assert_eq!(decode, [Kernel::BgmvShrink, Kernel::BgmvExpand, Kernel::AddNorm]);
        let prefill = launched(&Fleet { ranks: vec![8, 8], rows: rows(60) });
        assert_eq!(prefill, [Kernel::SgmvShrink, Kernel::SgmvExpand, Kernel::AddNorm]);
    });
}

#[test]
fn more_adapters_than_one_buffer_holds_are_refused_with_the_most_there_can_be() {
    on_every_gpu(|gpu| {
        let most = largest_buffer(&gpu.device, gpu.dtype);
        assert!(most >= 1 << 26, "{most} bytes");
        let refused =
            AdapterMemory::new(&gpu.device, gpu.dtype, most / gpu.dtype.size() + 1).expect_err("refused");
        assert!(refused.to_string().contains(&format!("at most {most}")), "{refused}");
    });
}

#[test]
fn weights_come_back_as_they_were_given() {
    on_every_gpu(|gpu| {
        let weight = matrix(9, 20, 12);
        let prepared = Weight::prepare(gpu.put(weight.clone()));
        assert_close(&prepared.to_f32(), &read(weight), tolerance(gpu.dtype, 1), &gpu.name);
    });
}

#[test]
fn a_batch_of_base_rows_is_the_base_model() {
    on_every_gpu(|gpu| {
        let layer = Layer { inputs: 48, outputs: 40, activation: Activation::Identity, seed: 6 };
        let parts = layer.parts(gpu);
        let x = gpu.put(matrix(60, 9, 48));
        let residual = gpu.put(matrix(61, 9, 40));
        let base = LoraBatch::base();
        let alone = read(linear(x.clone(), &parts.linear, &base));
        let normed = read(linear_add_norm(x.clone(), &parts.normed, residual.clone(), &parts.norm, &base));
        let fleet = Fleet { ranks: vec![8], rows: vec![(9, None)] };
        let (lora, _) = fleet.batch(gpu, &layer);
        assert_eq!(read(linear(x.clone(), &parts.linear, &lora)), alone);
        assert_eq!(read(linear_add_norm(x, &parts.normed, residual, &parts.norm, &lora)), normed);
        assert_eq!(lora.launches(), 0);
    });
}
