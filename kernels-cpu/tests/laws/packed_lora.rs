//! Adapters in the packed form that bf16 and int8 bases are served with.

use half::bf16;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::*;
use proptest::prelude::*;

use crate::assert_close;
use crate::layer::{After, LayerFixture};

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

/// What the layer makes of `x` with adapters and nothing else.
fn adapted<E: Element>(isa: Isa, x: &[E], weight: &PackedMatrix, lora: &[LoraSegment<'_>]) -> Vec<E> {
    let (activation, bias, residual, norm) = (Activation::Identity, None, None, None);
    let mut out = vec![E::from_f32(f32::NAN); x.len() / weight.inputs() * weight.outputs()];
    linear(isa, LinearCall { x, weight, bias, lora, activation, residual, norm }, &mut out);
    out
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
            for format in [WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Int8InEights] {
                let want = plain.run::<f32>(isa, format, Activation::Identity, After::Nothing);
                let layer = exact(LayerFixture::new(seed, rows, inputs, outputs, &ranks));
                let got = LayerFixture { packed: true, ..layer }.run::<f32>(isa, format, Activation::Identity, After::Nothing);
                // In eights, `A x` of up to 128 and `B` of up to 1 are integers as large as sums of so many products may become.
                let most_ranks = plain.segments.iter().map(|(_, spans)| spans.iter().map(|s| s.rank + 1).sum::<usize>()).max();
                let ranks = most_ranks.unwrap_or(0) as f32;
                let rounding = match format {
                    WeightFormat::Int8InEights => ranks * 128.0 / (i32::MAX as f32 / ranks.max(1.0)).sqrt(),
                    _ => 0.0,
                };
                assert_close(&got, &want, 1e-4 + rounding, &format!("{} {format:?}", isa.name()));
            }
        }
    }

    #[test]
    fn the_form_takes_no_more_than_is_counted_for_it(
        seed in 0u64..1000, inputs in 1usize..100, outputs in 1usize..110, rank in 1usize..40,
    ) {
        let layer = LayerFixture::new(seed, 1, inputs, outputs, &[rank]);
        for format in [WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Int8InEights] {
            let spans = LayerFixture::spans(&layer.segments[0].1);
            let most = PackedLora::most_bytes(inputs, spans.iter().map(|s| (s.rank, s.columns.len())));
            let packed = PackedLora::pack(&spans, outputs, inputs, format).expect("a low-rank part");
            prop_assert!(packed.bytes() <= most, "{} of {most}", packed.bytes());
        }
    }
}

#[test]
fn an_adapter_packed_for_another_format_is_read_as_it_is() {
    let plain = LayerFixture::new(1, 20, 30, 40, &[4, 5]);
    let (bf16, int8, eights) = (WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Int8InEights);
    for (format, other) in [(bf16, int8), (int8, bf16), (eights, int8), (int8, eights)] {
        let weight = PackedMatrix::pack(&plain.weight, 40, 30, format);
        let spans: Vec<_> = plain.segments.iter().map(|(_, spans)| LayerFixture::spans(spans)).collect();
        let right = PackedLora::pack(&spans[0], 40, 30, format);
        let wrong = PackedLora::pack(&spans[1], 40, 30, other);
        let run = |isa, packed: [Option<&PackedLora>; 2]| {
            let segments: Vec<LoraSegment<'_>> = (plain.segments.iter().zip(&spans).zip(packed))
                .map(|(((rows, _), spans), packed)| LoraSegment {
                    rows: rows.clone(),
                    spans: spans.clone(),
                    packed,
                })
                .collect();
            adapted(isa, &plain.x, &weight, &segments)
        };
        for isa in Isa::available() {
            let want = run(isa, [None, None]);
            assert_eq!(run(isa, [right.as_ref(), wrong.as_ref()]), want, "{} {format:?}", isa.name());
            assert_eq!(run(isa, [None, right.as_ref()]), want, "{} {format:?}, one of two", isa.name());
        }
    }
}

#[test]
fn a_form_of_another_format_beside_no_low_rank_part_is_not_read() {
    let packed = PackedLora::pack(
        &[LoraSpan { columns: 0..8, rank: 4, a: &[1.0; 256], b: &[1.0; 32], gain: None, bias: None }],
        8,
        64,
        WeightFormat::Int8,
    );
    let weight = PackedMatrix::pack(&[0.5; 8 * 64], 8, 64, WeightFormat::Bf16);
    for isa in Isa::available() {
        let segments = [LoraSegment { rows: 0..1, spans: vec![], packed: packed.as_ref() }];
        let out = adapted(isa, &[bf16::ONE; 64], &weight, &segments);
        assert_eq!(out, [bf16::from_f32(32.0); 8], "{}", isa.name());
    }
}

#[test]
fn values_at_the_end_of_f32_stay_finite_and_a_nan_stays_in_its_row() {
    let spans = [LoraSpan { columns: 0..1, rank: 1, a: &[1.0], b: &[f32::MAX], gain: None, bias: None }];
    for format in [WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Int8InEights] {
        let packed = PackedLora::pack(&spans, 1, 1, format).expect("a low-rank part");
        let weight = PackedMatrix::pack(&[0.0], 1, 1, format);
        for isa in Isa::available() {
            // A row of zeros beside: zero times what was rounded up to infinity would not be zero.
            let segments = [LoraSegment { rows: 0..4, spans: spans.to_vec(), packed: Some(&packed) }];
            let out = adapted(isa, &[0.0f32, 0.5, f32::NAN, 0.25], &weight, &segments);
            let finite = [out[1] / f32::MAX, out[3] / f32::MAX];
            let near = (finite[0] - 0.5).abs() < 0.01 && (finite[1] - 0.25).abs() < 0.01;
            assert!(out[0] == 0.0 && near && out[2].is_nan(), "{} {format:?}: {out:?}", isa.name());
        }
    }
}

#[test]
fn a_span_of_large_values_leaves_another_its_bits() {
    let (large, small) = ([8192.0, 0.0], [0.0, 1.0 / 1024.0]);
    let span = |columns, a| LoraSpan { columns, rank: 1, a, b: &[1.0; 32], gain: None, bias: None };
    let spans = [span(0..32, &large[..]), span(32..64, &small[..])];
    for format in [WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Int8InEights] {
        let packed = PackedLora::pack(&spans, 64, 2, format);
        let weight = PackedMatrix::pack(&[0.0; 128], 64, 2, format);
        for isa in Isa::available() {
            let segments = [LoraSegment { rows: 0..1, spans: spans.to_vec(), packed: packed.as_ref() }];
            let out = adapted(isa, &[255.0f32, 128.0], &weight, &segments);
            let want = [8192.0 * 255.0, 0.125];
            for (i, got) in out.into_iter().enumerate() {
                let want = want[i / 32];
                let near = (got - want).abs() <= 0.01 * want;
                assert!(near, "{} {format:?}, column {i}: {got} for {want}", isa.name());
            }
        }
    }
}
