//! What a target does by instructions of its own is what its plain loops do.

use half::bf16;

use super::{Extremes, LANES, Target, dispatch};
use crate::element::extremes_by_lanes;
use crate::isa::Isa;
use crate::tile_emulator::Numbers;

dispatch! {
    fn transposed(rows: &[*const u32; LANES], first: usize, to: &mut [u32], stride: usize) = transposed_body
}
dispatch! {
    fn extremes(values: &[bf16], found: &mut Vec<Extremes>) = extremes_body
}
dispatch! {
    fn bytes(values: &[f32; 64], to: &mut [u8; 64], one_by_one: &mut [u8; 64]) = bytes_body
}
dispatch! {
    fn rounded(values: &[f32; LANES], to: &mut [bf16; LANES]) = rounded_body
}

#[inline(always)]
fn transposed_body<I: Target>(rows: &[*const u32; LANES], first: usize, to: &mut [u32], stride: usize) {
    assert!(to.len() >= (LANES - 1) * stride + LANES);
    // SAFETY: there is room, and the rows are those that the law made.
    unsafe { I::transpose_words(rows, first, to.as_mut_ptr(), stride) };
}

#[inline(always)]
fn extremes_body<I: Target>(values: &[bf16], found: &mut Vec<Extremes>) {
    // SAFETY: so many values lie there.
    unsafe {
        found.push(I::extremes_of_bf16(values.as_ptr(), values.len()));
        found.push(extremes_by_lanes::<I, bf16>(values.as_ptr(), values.len()));
    }
}

#[inline(always)]
fn bytes_body<I: Target>(values: &[f32; 64], to: &mut [u8; 64], one_by_one: &mut [u8; 64]) {
    let mut lanes = [I::splat(0.0); 4];
    // SAFETY: there are four times sixteen values and places.
    unsafe {
        for (i, lanes) in lanes.iter_mut().enumerate() {
            *lanes = I::load(values.as_ptr().add(i * LANES));
            I::store_u8(*lanes, one_by_one.as_mut_ptr().add(i * LANES));
        }
        I::store_64_u8(lanes, to.as_mut_ptr());
    }
}

#[inline(always)]
fn rounded_body<I: Target>(values: &[f32; LANES], to: &mut [bf16; LANES]) {
    // SAFETY: there are sixteen values and places.
    unsafe { I::store_bf16(I::load(values.as_ptr()), to.as_mut_ptr()) };
}

#[test]
fn words_of_rows_become_rows_of_words() {
    // Rows of 41 values of 16 bits: every other one on an address that is no word's.
    let values: Vec<u16> = (0..16 * 41 + 64).map(|i| i as u16).collect();
    let rows: [*const u32; LANES] = std::array::from_fn(|j| values[j * 41..].as_ptr().cast());
    for isa in Isa::available() {
        for (first, stride) in [(0, 16), (2, 32), (4, 19)] {
            let mut to = vec![u32::MAX; 16 * stride];
            transposed(isa, &rows, first, &mut to, stride);
            for (s, words) in to.chunks(stride).enumerate() {
                for (j, word) in words[..LANES].iter().enumerate() {
                    let at = j * 41 + (first + s) * 2;
                    let want = values[at] as u32 | (values[at + 1] as u32) << 16;
                    assert_eq!(*word, want, "{}: word {} of row {j}", isa.name(), first + s);
                }
                assert!(words[LANES..].iter().all(|w| *w == u32::MAX), "{} wrote beyond", isa.name());
            }
        }
    }
}

#[test]
fn extremes_are_those_of_all_values_and_of_zero() {
    let mut numbers = Numbers(5);
    let mut any = |signs: [f32; 2]| {
        let draw = numbers.next() >> 33;
        bf16::from_f32(signs[(draw % 2) as usize] * (draw % 1000) as f32 * 1e-3)
    };
    for (count, signs) in
        [16, 32, 48, 384].into_iter().flat_map(|n| [[1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]].map(|s| (n, s)))
    {
        let mut values: Vec<bf16> = (0..count).map(|_| any(signs)).collect();
        let largest = values.iter().fold(0f32, |h, v| h.max(v.to_f32()));
        let least = values.iter().fold(0f32, |l, v| l.min(v.to_f32()));
        let bad = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN];
        for isa in Isa::available() {
            let mut found = vec![];
            extremes(isa, &values, &mut found);
            for found in found {
                let what = format!("{}: {count} values", isa.name());
                assert_eq!((found.lowest, found.highest, found.finite), (least, largest, true), "{what}");
            }
            for (flaw, at) in bad.into_iter().zip([0, count - 1, count / 2, count - 16]) {
                let before = std::mem::replace(&mut values[at], bf16::from_f32(flaw));
                let mut found = vec![];
                extremes(isa, &values, &mut found);
                assert!(found.iter().all(|found| !found.finite), "{}: {flaw} at {at} of {count}", isa.name());
                values[at] = before;
            }
        }
    }
    // The largest that are finite, and denormals, are no flaws.
    for isa in Isa::available() {
        let mut found = vec![];
        extremes(isa, &[[bf16::MAX; 8], [bf16::MIN; 8]].concat(), &mut found);
        extremes(isa, &[bf16::from_bits(1); 16], &mut found);
        assert!(found.iter().all(|found| found.finite), "{}", isa.name());
        assert_eq!((found[0].lowest, found[0].highest), (bf16::MIN.to_f32(), bf16::MAX.to_f32()));
    }
}

#[test]
fn four_times_sixteen_bytes_are_those_that_sixteen_would_be() {
    let values: [f32; 64] = std::array::from_fn(|i| match i {
        0 => -1e9,
        1 => 1e9,
        2 => f32::NAN,
        3 => 254.5,
        4 => 255.5,
        5 => -0.5,
        6 => 70_000.0,
        i => i as f32 * 5.3 - 20.0,
    });
    for isa in Isa::available() {
        let (mut together, mut one_by_one) = ([7; 64], [7; 64]);
        bytes(isa, &values, &mut together, &mut one_by_one);
        assert_eq!(together, one_by_one, "{}", isa.name());
        let want = |v: f32| v.round_ties_even().clamp(0.0, 255.0) as u8;
        for (i, (got, v)) in
            together.iter().zip(values).enumerate().filter(|(_, (_, v))| v.is_finite() && v.abs() < 1e6)
        {
            assert_eq!(*got, want(v), "{}: {v} at {i}", isa.name());
        }
    }
}

#[test]
fn bf16_is_the_nearest_one_and_only_denormals_may_become_zero() {
    let mut numbers = Numbers(11);
    for _ in 0..4000 {
        let values: [f32; LANES] = std::array::from_fn(|_| f32::from_bits((numbers.next() >> 32) as u32));
        for isa in Isa::available() {
            let mut to = [bf16::ONE; LANES];
            rounded(isa, &values, &mut to);
            for (value, got) in values.iter().zip(to) {
                let want = bf16::from_f32(*value);
                let may_be_zero = value.abs() < f32::MIN_POSITIVE && got.to_f32() == 0.0;
                let both_nan = want.is_nan() && got.is_nan();
                assert!(
                    got.to_bits() == want.to_bits() || may_be_zero || both_nan,
                    "{}: {value:e} became {got}",
                    isa.name()
                );
            }
        }
    }
}
