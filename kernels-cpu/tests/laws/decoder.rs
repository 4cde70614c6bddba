//! What a decoder's layers are made of beside products and attention: root mean square norms, gates, lookups.

use half::bf16;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::*;
use proptest::prelude::*;

use crate::layer::{activated, rounded};
use crate::{assert_close, on_threads, values};

fn normalized<E: Element>(isa: Isa, x: &[E], gamma: &[f32], epsilon: f32) -> Vec<E> {
    let mut out = vec![E::from_f32(f32::NAN); x.len()];
    rms_norm(isa, RmsNormCall { x, gamma, epsilon }, &mut out);
    out
}

fn gate<E: Element>(isa: Isa, gate_up: &[E], width: usize, activation: Activation) -> Vec<E> {
    let mut out = vec![E::from_f32(f32::NAN); gate_up.len() / 2];
    gated(isa, GatedCall { gate_up, width, activation }, &mut out);
    out
}

fn widened<E: Element>(values: &[E]) -> Vec<f32> {
    values.iter().map(|v| v.to_f32()).collect()
}

/// In f64.
fn naive_norm(x: &[f32], gamma: &[f32], epsilon: f64) -> Vec<f32> {
    let rows = x.chunks(gamma.len()).flat_map(|row| {
        let squares: f64 = row.iter().map(|v| (*v as f64).powi(2)).sum();
        let root = (squares / row.len() as f64 + epsilon).sqrt();
        row.iter().zip(gamma).map(move |(v, g)| (*v as f64 / root * *g as f64) as f32)
    });
    rows.collect()
}

/// In f64.
fn naive_gate(gate_up: &[f32], width: usize, activation: Activation) -> Vec<f32> {
    let rows = gate_up.chunks(2 * width).flat_map(|row| {
        let (gate, up) = row.split_at(width);
        gate.iter().zip(up).map(move |(g, u)| (activated(activation, *g as f64) * *u as f64) as f32)
    });
    rows.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_norm_equals_the_naive_one_on_every_instruction_set(
        seed in 0u64..1000, rows in 1usize..60, width in 1usize..700, threads in 1usize..4, large in any::<bool>(),
    ) {
        // Large rows have a scale that the norm must take away, small ones show epsilon.
        let scale = if large { 300.0 } else { 1e-2 };
        let x: Vec<f32> = values(seed, rows * width).into_iter().map(|v| v * scale).collect();
        let (x16, gamma) = (rounded::<bf16>(&x), values(seed + 1, width));
        let (want, want16) = (naive_norm(&x, &gamma, 1e-5), naive_norm(&widened(&x16), &gamma, 1e-5));
        for isa in Isa::available() {
            on_threads(threads, || {
                assert_close(&normalized(isa, &x, &gamma, 1e-5), &want, 2e-6, isa.name());
                // Sums in f32: only the result is rounded.
                assert_close(&widened(&normalized(isa, &x16, &gamma, 1e-5)), &want16, 4e-3, isa.name());
            });
        }
    }

    #[test]
    fn gates_equal_the_naive_ones_on_every_instruction_set(
        seed in 0u64..1000, rows in 1usize..40, width in 1usize..300, threads in 1usize..4,
        activation in prop::sample::select(Activation::ALL.to_vec()),
    ) {
        let gate_up: Vec<f32> = values(seed, rows * 2 * width).into_iter().map(|v| v * 6.0).collect();
        let gate_up16 = rounded::<bf16>(&gate_up);
        let want = naive_gate(&gate_up, width, activation);
        let want16 = naive_gate(&widened(&gate_up16), width, activation);
        for isa in Isa::available() {
            on_threads(threads, || {
                assert_close(&gate(isa, &gate_up, width, activation), &want, 2e-5, isa.name());
                assert_close(&widened(&gate(isa, &gate_up16, width, activation)), &want16, 4e-3, isa.name());
            });
        }
    }

    #[test]
    fn batch_mates_do_not_change_a_bit_of_a_normalized_or_gated_row(
        seed in 0u64..1000, rows in 1usize..60, width in 1usize..900, row in any::<prop::sample::Index>(),
    ) {
        let row = row.index(rows);
        let (both, gamma) = (values(seed, rows * 2 * width), values(seed + 1, width));
        let x = &both[..rows * width];
        let (both16, x16) = (rounded::<bf16>(&both), rounded::<bf16>(x));
        let (own, twice) = (row * width..(row + 1) * width, row * 2 * width..(row + 1) * 2 * width);
        for isa in Isa::available() {
            let together = on_threads(2, || (
                normalized(isa, x, &gamma, 1e-6),
                normalized(isa, &x16, &gamma, 1e-6),
                gate(isa, &both, width, Activation::Silu),
                gate(isa, &both16, width, Activation::Silu),
            ));
            let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|v| v.to_bits()).collect() };
            let alone = normalized(isa, &x[own.clone()], &gamma, 1e-6);
            prop_assert_eq!(bits(&together.0[own.clone()]), bits(&alone));
            prop_assert_eq!(&together.1[own.clone()], &normalized(isa, &x16[own.clone()], &gamma, 1e-6)[..]);
            let alone = gate(isa, &both[twice.clone()], width, Activation::Silu);
            prop_assert_eq!(bits(&together.2[own.clone()]), bits(&alone));
            let alone = gate(isa, &both16[twice.clone()], width, Activation::Silu);
            prop_assert_eq!(&together.3[own.clone()], &alone[..]);
        }
    }

    #[test]
    fn a_lookup_copies_rows_bit_by_bit(
        seed in 0u64..1000, vocabulary in 1usize..50, width in 1usize..70,
        ids in proptest::collection::vec(any::<prop::sample::Index>(), 0..400), threads in 1usize..4,
    ) {
        let table = values(seed, vocabulary * width);
        let ids: Vec<u32> = ids.iter().map(|id| id.index(vocabulary) as u32).collect();
        let mut out = vec![f32::NAN; ids.len() * width];
        on_threads(threads, || embed(&ids, &table, width, &mut out));
        for (row, id) in out.chunks(width).zip(&ids) {
            prop_assert_eq!(row, &table[*id as usize * width..][..width]);
        }
        let (table16, mut out16) = (rounded::<bf16>(&table), vec![bf16::NAN; ids.len() * width]);
        on_threads(threads, || embed(&ids, &table16, width, &mut out16));
        prop_assert_eq!(out16, rounded::<bf16>(&out));
    }
}

#[test]
fn rows_of_a_models_width_equal_the_naive_ones() {
    for (rows, width) in [(1, 14_336), (3, 4097), (20, 8192), (70, 1024)] {
        let (both, gamma) = (values(1, rows * 2 * width), values(2, width));
        let x = &both[..rows * width];
        for isa in Isa::available() {
            for threads in [1, 2] {
                on_threads(threads, || {
                    let what = format!("{} {rows}x{width}", isa.name());
                    assert_close(
                        &normalized(isa, x, &gamma, 1e-5),
                        &naive_norm(x, &gamma, 1e-5),
                        2e-6,
                        &what,
                    );
                    let want = naive_gate(&both, width, Activation::Silu);
                    assert_close(&gate(isa, &both, width, Activation::Silu), &want, 2e-6, &what);
                });
            }
        }
    }
}

#[test]
fn a_nan_spoils_its_own_row_and_no_other() {
    for isa in Isa::available() {
        let (mut both, gamma) = (values(3, 3 * 2 * 40), values(4, 40));
        both[2 * 40 + 37] = f32::NAN;
        let norms = normalized(isa, &both, &gamma, 1e-5);
        let gates = gate(isa, &both, 40, Activation::Silu);
        for (i, norm) in norms.iter().enumerate() {
            assert_eq!(norm.is_nan(), i / 40 == 2, "{} norm {i}", isa.name());
        }
        for (i, gate) in gates.iter().enumerate() {
            assert_eq!(gate.is_nan(), i == 40 + 37, "{} gate {i}", isa.name());
        }
    }
}

#[test]
#[should_panic(expected = "range end index")]
fn an_id_beyond_the_table_is_refused() {
    embed(&[0, 3], &[0.0f32; 12], 4, &mut [0.0; 8]);
}
