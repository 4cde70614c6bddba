//! Linear layers.

use half::bf16;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::*;
use proptest::prelude::*;

use crate::layer::{After, LayerFixture};
use crate::{assert_close, on_threads};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn linear_equals_the_naive_layer_on_every_instruction_set(
        seed in 0u64..1000, rows in 1usize..130, inputs in 1usize..90, outputs in 1usize..80,
        ranks in proptest::collection::vec(0usize..20, 0..5), after in prop::sample::select(After::ALL.to_vec()), threads in 1usize..4,
        activation in prop::sample::select(Activation::ALL.to_vec()),
    ) {
        // A normalised row of one or two columns amplifies rounding without bound.
        let after = if after == After::AddNorm && outputs <= 4 { After::Add } else { after };
        let layer = LayerFixture::new(seed, rows, inputs, outputs, &ranks);
        let want = layer.naive(activation, after);
        let layer16 = LayerFixture::new(seed, rows, inputs, outputs, &ranks).into_rounded::<bf16>(WeightFormat::Bf16);
        let want16 = layer16.naive(activation, after);
        for isa in Isa::available() {
            on_threads(threads, || {
                let got = layer.run::<f32>(isa, WeightFormat::F32, activation, after);
                assert_close(&got, &want, 3e-4, isa.name());
                // Sums in f32: only the result is rounded. After a norm an unlucky row's rounding counts for more.
                let got = layer16.run::<bf16>(isa, WeightFormat::Bf16, activation, after);
                assert_close(&got, &want16, if after == After::AddNorm { 1e-2 } else { 5e-3 }, isa.name());
            });
        }
    }

    #[test]
    fn int8_is_as_near_to_the_exact_layer_as_its_rounding_allows(
        seed in 0u64..1000, rows in 1usize..60, inputs in 1usize..90, outputs in 1usize..80, threads in 1usize..4,
    ) {
        for (isa, format) in Isa::available().into_iter().flat_map(|isa| [(isa, WeightFormat::Int8), (isa, isa.int8_format())]) {
            let layer = || LayerFixture::new(seed, rows, inputs, outputs, &[]);
            // The weights as they are packed; packed once more they might be others.
            let exact = layer().into_rounded::<f32>(format);
            let want = exact.naive(Activation::Identity, After::Nothing);
            let got = on_threads(threads, || layer().run::<f32>(isa, format, Activation::Identity, After::Nothing));
            for row in 0..rows {
                let x = &exact.x[row * inputs..][..inputs];
                let range = x.iter().fold(0f32, |h, v| h.max(*v)) - x.iter().fold(0f32, |l, v| l.min(*v));
                for o in 0..outputs {
                    let weights: f32 = exact.weight[o * inputs..][..inputs].iter().map(|w| w.abs()).sum();
                    // Half a step for each input, and another half for where zero lies.
                    let allowed = 1.01 * range / 255.0 * weights + 1e-4;
                    let (g, w) = (got[row * outputs + o], want[row * outputs + o]);
                    prop_assert!((g - w).abs() <= allowed, "{}: {g} for {w}, allowed {allowed}", isa.name());
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_equals_its_scalar_twin(
        seed in 0u64..1000, rows in 1usize..90, inputs in 1usize..200, outputs in 5usize..100,
        ranks in proptest::collection::vec(0usize..20, 0..4), after in prop::sample::select(After::ALL.to_vec()),
        activation in prop::sample::select(Activation::ALL.to_vec()), packed in any::<bool>(),
    ) {
        let layer = LayerFixture { packed, ..LayerFixture::new(seed, rows, inputs, outputs, &ranks) };
        for format in WeightFormat::ALL {
            let twin = layer.run::<f32>(Isa::Scalar, format, activation, after);
            let twin16 = layer.run::<bf16>(Isa::Scalar, format, activation, after);
            for isa in Isa::available() {
                let got = layer.run::<f32>(isa, format, activation, after);
                let int8 = [WeightFormat::Int8, WeightFormat::Int8InEights].contains(&format);
                let tolerance = match format {
                    // Rows in f32, and packed adapters' `A x`, are rounded to bf16 for its dot product only where there is one.
                    WeightFormat::Bf16 => 6e-2,
                    _ if int8 && packed && isa.has_bf16_products() => 6e-2,
                    // A byte that is rounded the other way moves a sum by a 255th of a row's range.
                    _ if int8 => 3e-2,
                    _ => 3e-4,
                };
                assert_close(&got, &twin, tolerance, &format!("{} {format:?}", isa.name()));
                let got = layer.run::<bf16>(isa, format, activation, after);
                let tolerance = match packed && isa.has_bf16_products() {
                    true if format != WeightFormat::F32 => 6e-2,
                    _ if int8 => 5e-2,
                    _ => 1.7e-2,
                };
                assert_close(&got, &twin16, tolerance, &format!("{} {format:?} in bf16", isa.name()));
            }
        }
    }

    #[test]
    fn batch_mates_do_not_change_a_bit_of_a_row(
        seed in 0u64..1000, rows in 1usize..200, inputs in 1usize..700, outputs in 1usize..70,
        ranks in proptest::collection::vec(0usize..20, 0..30), row in any::<prop::sample::Index>(),
        packed in any::<bool>(),
    ) {
        let layer = LayerFixture { packed, ..LayerFixture::new(seed, rows, inputs, outputs, &ranks) };
        let row = row.index(rows);
        let mut alone = LayerFixture { packed, ..LayerFixture::new(seed, 1, inputs, outputs, &[]) };
        alone.x = layer.x[row * inputs..][..inputs].to_vec();
        alone.residual = layer.residual[row * outputs..][..outputs].to_vec();
        let own = LayerFixture::new(seed, rows, inputs, outputs, &ranks).segments.into_iter();
        alone.segments = own.filter(|(rows, _)| rows.contains(&row)).map(|(_, spans)| (0..1, spans)).collect();
        for isa in Isa::available() {
            for format in WeightFormat::ALL {
                let bits = |layer: &LayerFixture, threads: usize| -> Vec<Vec<u32>> {
                    on_threads(threads, || [
                        layer.run::<f32>(isa, format, Activation::Gelu, After::AddNorm),
                        layer.run::<bf16>(isa, format, Activation::Gelu, After::AddNorm),
                    ]).into_iter().map(|v| v.into_iter().map(f32::to_bits).collect()).collect()
                };
                for (together, single) in bits(&layer, 2).into_iter().zip(bits(&alone, 1)) {
                    let together = &together[row * outputs..][..outputs];
                    prop_assert_eq!(together, &single[..], "{} {:?}", isa.name(), format);
                }
            }
        }
    }
}

#[test]
fn a_nan_row_stays_alone() {
    for (format, packed) in WeightFormat::ALL.into_iter().flat_map(|format| [(format, false), (format, true)])
    {
        for isa in Isa::available() {
            // Whole thirty-twos of inputs, sixteen more, and a rest; the flaw in each part of a row.
            for (inputs, at) in [(48, 5), (48, 40), (64, 63), (53, 3), (53, 50)] {
                let fixture = || LayerFixture { packed, ..LayerFixture::new(7, 40, inputs, 48, &[4, 8]) };
                let run = |layer: &LayerFixture| {
                    [
                        layer.run::<f32>(isa, format, Activation::Gelu, After::AddNorm),
                        layer.run::<bf16>(isa, format, Activation::Gelu, After::AddNorm),
                    ]
                };
                let clean = run(&fixture());
                for flaw in [f32::NAN, -f32::NAN] {
                    let mut layer = fixture();
                    layer.x[13 * inputs + at] = flaw;
                    let dirty = run(&layer);
                    let what = format!("{} {format:?}, input {at} of {inputs}", isa.name());
                    for (clean, dirty) in clean.iter().zip(&dirty) {
                        for row in 0..40 {
                            let (c, d) = (&clean[row * 48..][..48], &dirty[row * 48..][..48]);
                            if row == 13 {
                                assert!(d.iter().all(|v| v.is_nan()), "{what}");
                            } else {
                                assert_eq!(c, d, "row {row}, {what}");
                            }
                        }
                    }
                }
                // Infinite inputs of an int8 layer have no scale.
                for flaw in [f32::INFINITY, f32::NEG_INFINITY]
                    .into_iter()
                    .filter(|_| ![WeightFormat::F32, WeightFormat::Bf16].contains(&format))
                {
                    let mut layer = fixture();
                    layer.x[13 * inputs + at] = flaw;
                    for dirty in run(&layer) {
                        let row = &dirty[13 * 48..][..48];
                        assert!(
                            row.iter().all(|v| v.is_nan()),
                            "{} {format:?}, {flaw} at {at} of {inputs}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_finite_row_stays_finite_in_int8() {
    for value in [0.0, 1e-44, 1e-38, 1e-30, 2e38] {
        for (isa, format) in
            Isa::available().into_iter().flat_map(|isa| [(isa, WeightFormat::Int8), (isa, isa.int8_format())])
        {
            let mut layer = LayerFixture::new(9, 3, 40, 33, &[]);
            layer.x[40..80].fill(0.0);
            (layer.x[41], layer.x[47]) = (value, -value);
            // Small weights: the exact sums are finite too.
            layer.weight.iter_mut().for_each(|w| *w *= 1e-3);
            let got = layer.run::<f32>(isa, format, Activation::Identity, After::Nothing);
            assert!(got.iter().all(|v| v.is_finite()), "{} {value}", isa.name());
        }
    }
}
