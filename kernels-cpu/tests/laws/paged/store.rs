//! Storing keys and values.

use half::bf16;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::*;
use proptest::prelude::*;

use super::{Fixture, batch, bits, store};
use crate::layer::rounded;
use crate::{assert_close, on_threads, values};

/// One head's columns as pairs that are the real and imaginary parts of complex numbers, times `e^(i angle)`, in f64.
fn turned(head: &[f32], angles: &[f64]) -> Vec<f32> {
    let half = angles.len();
    let mut out = head.to_vec();
    for (j, angle) in angles.iter().enumerate() {
        let (re, im) = (head[j] as f64, head[half + j] as f64);
        out[j] = (re * angle.cos() - im * angle.sin()) as f32;
        out[half + j] = (re * angle.sin() + im * angle.cos()) as f32;
    }
    out
}

fn normed(head: &[f32], gamma: &[f32], epsilon: f64) -> Vec<f32> {
    let squares: f64 = head.iter().map(|v| (*v as f64).powi(2)).sum();
    let root = (squares / head.len() as f64 + epsilon).sqrt();
    head.iter().zip(gamma).map(|(v, g)| (*v as f64 / root * *g as f64) as f32).collect()
}

fn check<E: Element>(
    isa: Isa,
    fixture: &Fixture,
    from: usize,
    half: usize,
    with_norms: bool,
    tolerance: f32,
) {
    let heads = fixture.shape.heads;
    let KvHeads { query, kv, width } = heads;
    let to = fixture.lengths[0];
    let (sequence, qkv) = fixture.rows(0, from, to);
    let gammas = [values(31, width), values(32, width)];
    let norms = gammas.each_ref().map(|gamma| with_norms.then_some(HeadNorm { gamma, epsilon: 1e-6 }));
    let angles: Vec<Vec<f64>> = (0..to)
        .map(|position| {
            (0..half).map(|j| position as f64 * 10_000f64.powf(-(j as f64) / half as f64)).collect()
        })
        .collect();
    let table = |f: fn(f64) -> f64| angles.iter().flatten().map(|a| f(*a) as f32).collect::<Vec<_>>();
    let (cos, sin) = (table(f64::cos), table(f64::sin));

    let mut cache = fixture.poisoned::<E>(isa);
    let batch = batch(&cache, &[(sequence, qkv)]);
    let mut q = vec![E::from_f32(f32::NAN); (to - from) * query * width];
    let rounded = rounded::<E>(qkv);
    let rotary = RotaryTable { cos: &cos, sin: &sin, half };
    store_kv(isa, StoreCall { qkv: &rounded, heads, batch: &batch, rotary, norms }, &mut cache, &mut q);

    let held = cache.unpack();
    let mut written = vec![false; fixture.shape.blocks * fixture.shape.block_size];
    for (row, position) in (from..to).enumerate() {
        let rotated = |part: usize, norm: usize| {
            let head = &qkv[row * heads.qkv_columns() + part * width..][..width];
            let head = if with_norms { normed(head, &gammas[norm], 1e-6) } else { head.to_vec() };
            turned(&head, &angles[position])
        };
        for head in 0..query {
            let got: Vec<f32> =
                q[(row * query + head) * width..][..width].iter().map(|v| v.to_f32()).collect();
            assert_close(&got, &rotated(head, 0), tolerance, &format!("{} query {row}", isa.name()));
        }
        let slot = batch.slots()[row] as usize;
        written[slot] = true;
        let held = &held[slot * 2 * kv * width..][..2 * kv * width];
        for head in 0..kv {
            let key = &held[head * width..][..width];
            assert_close(key, &rotated(query + head, 1), tolerance, &format!("{} key {row}", isa.name()));
        }
        let value = &qkv[row * heads.qkv_columns() + (query + kv) * width..][..kv * width];
        assert_eq!(&held[kv * width..], value, "values are kept as they are");
    }
    for (slot, held) in held.chunks_exact(2 * kv * width).enumerate() {
        let poison = if written[slot] { f32::is_finite } else { f32::is_nan };
        assert!(
            held.iter().all(|v| poison(*v)),
            "{} slot {slot} was {}written",
            isa.name(),
            if written[slot] { "not " } else { "" }
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn heads_are_normed_and_turned_as_complex_numbers_and_nothing_but_their_slots_is_written(
        seed in 0u64..1000, kv in 1usize..4, sharing in 1usize..5, width in 1usize..90, turned in 0usize..46,
        block_size in 1usize..40, length in 1usize..60, from in 0usize..60, with_norms in any::<bool>(), threads in 1usize..3,
    ) {
        let heads = KvHeads { query: kv * sharing, kv, width };
        let (from, half) = (from % length, turned.min(width / 2));
        let fixture = Fixture::new(seed, heads, block_size, &[length]);
        let coarse = Fixture::new(seed, heads, block_size, &[length]).rounded::<bf16>();
        for isa in Isa::available() {
            on_threads(threads, || {
                check::<f32>(isa, &fixture, from, half, with_norms, 2e-6);
                check::<bf16>(isa, &coarse, from, half, with_norms, 5e-3);
            });
        }
    }

    #[test]
    fn a_copied_block_is_the_other_and_no_other_is_touched(
        seed in 0u64..1000, kv in 1usize..4, width in 1usize..40, block_size in 1usize..40, from in 0usize..6, to in 0usize..6,
    ) {
        let heads = KvHeads { query: kv, kv, width };
        let fixture = Fixture::new(seed, heads, block_size, &[3 * block_size]);
        prop_assert_eq!(fixture.shape.blocks, 6);
        let mut cache = fixture.poisoned::<bf16>(Isa::current());
        store::<bf16>(Isa::current(), &mut cache, heads, &[fixture.rows(0, 0, 3 * block_size)]);
        let before = cache.unpack();
        cache.copy_block(from, to);
        let after = cache.unpack();
        let len = before.len() / 6;
        for block in 0..6 {
            let source = if block == to { from } else { block };
            prop_assert_eq!(bits(&after[block * len..][..len]), bits(&before[source * len..][..len]));
        }
    }
}
