//! Adapters in the packed form that bf16 and int8 bases are served with.

use half::bf16;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::*;
use proptest::prelude::*;

use crate::assert_close;
use crate::layer::LayerFixture;

/// The layer with values that every format holds: rows of whole numbers from 0 to 255, which 8 bits hold with a scale of 1,
/// and of each row of `A` one value that counts, so that `A x` is a whole number that bf16 holds.
fn exact(mut layer: LayerFixture) -> LayerFixture {
    let inputs = layer.inputs;
    for row in layer.x.chunks_exact_mut(inputs) {
        row.iter_mut().for_each(|v| *v = (v.abs() * 63.0).floor());
        (row[0], row[inputs - 1]) = (0.0, 255.0);
    }
    for (rank, row) in layer
        .segments
        .iter_mut()
        .flat_map(|s| &mut s.1)
        .flat_map(|s| s.a.chunks_exact_mut(inputs))
        .enumerate()
    {
        let at = rank % (inputs - 1);
        row.iter_mut().enumerate().for_each(|(i, v)| *v = if i == at { v.signum() * 0.5 } else { 0.0 });
    }
    for v in layer.segments.iter_mut().flat_map(|s| &mut s.1).flat_map(|s| &mut s.b) {
        *v = bf16::from_f32(*v).to_f32();
    }
    layer.weight.iter_mut().for_each(|v| *v = bf16::from_f32(*v * 0.01).to_f32());
    layer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn packed_adapters_do_what_plain_ones_do(
        seed in 0u64..1000, rows in 1usize..130, inputs in 2usize..100, outputs in 1usize..110,
        ranks in proptest::collection::vec(0usize..70, 1..5),
    ) {
        let plain = exact(LayerFixture::new(seed, rows, inputs, outputs, &ranks));
        for isa in Isa::available() {
            for format in [WeightFormat::Bf16, WeightFormat::Int8] {
                let want = plain.run::<f32>(isa, format, Activation::Identity, false);
                let layer = exact(LayerFixture::new(seed, rows, inputs, outputs, &ranks));
                let got = LayerFixture { packed: true, ..layer }.run::<f32>(isa, format, Activation::Identity, false);
                assert_close(&got, &want, 1e-4, &format!("{} {format:?}", isa.name()));
            }
        }
    }

    #[test]
    fn an_adapter_packed_for_another_format_is_read_as_it_is(seed in 0u64..1000, rows in 1usize..40) {
        let layer = LayerFixture { packed: true, ..LayerFixture::new(seed, rows, 30, 40, &[4]) };
        // Packed for f32 there is nothing: the plain values serve.
        let plain = LayerFixture { packed: false, ..LayerFixture::new(seed, rows, 30, 40, &[4]) };
        for isa in Isa::available() {
            let run = |layer: &LayerFixture| layer.run::<f32>(isa, WeightFormat::F32, Activation::Gelu, false);
            prop_assert_eq!(run(&layer), run(&plain));
        }
    }
}

#[test]
fn values_beyond_bf16_stay_finite() {
    let spans = [LoraSpan { columns: 0..1, rank: 1, a: &[1.0], b: &[f32::MAX], gain: None, bias: None }];
    let packed = PackedLora::pack(&spans, 1, 1, WeightFormat::Bf16).expect("a low-rank part");
    let weight = PackedMatrix::pack(&[0.0], 1, 1, WeightFormat::Bf16);
    for isa in Isa::available() {
        // A row of zeros beside: zero times what was rounded up to infinity would not be zero.
        let segments = [LoraSegment { rows: 0..2, spans: spans.to_vec(), packed: Some(&packed) }];
        let (activation, bias, residual, norm) = (Activation::Identity, None, None, None);
        let call = LinearCall {
            x: &[0.0f32, 0.5],
            weight: &weight,
            bias,
            lora: &segments,
            activation,
            residual,
            norm,
        };
        let mut out = [f32::NAN; 2];
        linear(isa, call, &mut out);
        assert!(out[0] == 0.0 && out[1].is_finite(), "{}: {out:?}", isa.name());
    }
}
