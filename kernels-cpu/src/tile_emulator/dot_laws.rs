//! Dot products: against scalar oracles, at the edges of bf16 arithmetic, and in the loop of a kernel.

use std::arch::asm;

use super::program::{Config, Numbers, load, run, store, tiles_are_ready};
use super::state::multiply_add;
use super::{instructions, processor_has_tiles};

/// Sum of products of bf16 in the order of TDPBF16PS, with the fused operation of the standard library.
pub(crate) fn bf16_dot(sum: f32, terms: impl Iterator<Item = (u16, u16)>) -> f32 {
    let flush = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    let value = |x: u16| flush(f32::from_bits(u32::from(x) << 16));
    let mut sums = [0f32; 2];
    for (i, (left, right)) in terms.enumerate() {
        sums[i % 2] = flush(value(left).mul_add(value(right), sums[i % 2]));
    }
    flush(flush(sum) + flush(sums[0] + sums[1]))
}

/// Loads random tiles of random shapes into `tmm0 += tmm2 * tmm5` and compares each element of the sum with
/// `oracle(before, dwords)`, the dwords being those of the left row and the right column in the order of the depth.
fn equals_the_oracle(
    run: fn(),
    mut number: impl FnMut() -> u16,
    oracle: impl Fn([u8; 4], Vec<([u8; 4], [u8; 4])>) -> [u8; 4],
) {
    if !tiles_are_ready() {
        return;
    }
    let mut shapes = Numbers(5);
    for _ in 0..60 {
        let (m, n, k) = (shapes.up_to(16), shapes.up_to(16), shapes.up_to(16));
        let mut tile = || -> [[[u8; 4]; 16]; 16] {
            let mut dword = || [number().to_le_bytes(), number().to_le_bytes()].concat();
            std::array::from_fn(|_| std::array::from_fn(|_| dword().try_into().expect("two numbers")))
        };
        let (mut sum, left, right) = (tile(), tile(), tile());
        let before = sum;
        Config::of(&[(m, 4 * n), (1, 4), (m, 4 * k), (0, 0), (0, 0), (k, 4 * n)]).load();
        load!("tmm0", sum.as_ptr(), 64);
        load!("tmm2", left.as_ptr(), 64);
        load!("tmm5", right.as_ptr(), 64);
        run();
        store!("tmm0", sum.as_mut_ptr(), 64);
        for (row, column) in (0..256).map(|i| (i / 16, i % 16)) {
            let before = before[row][column];
            let dwords = (0..k).map(|d| (left[row][d], right[d][column])).collect();
            let expected = if row < m && column < n { oracle(before, dwords) } else { before };
            assert_eq!(sum[row][column], expected, "({row}, {column}) of {m}x{n}x{k}");
        }
    }
}

#[test]
fn bf16_dot_products_equal_the_scalar_oracle_to_the_bit() {
    let mut numbers = Numbers(6);
    equals_the_oracle(
        || run!("tdpbf16ps tmm0, tmm2, tmm5"),
        || numbers.bf16(),
        |before, dwords| {
            let halves = |dword: [u8; 4]| {
                [u16::from_le_bytes([dword[0], dword[1]]), u16::from_le_bytes([dword[2], dword[3]])]
            };
            let terms = dwords.into_iter().flat_map(|(l, r)| halves(l).into_iter().zip(halves(r)));
            bf16_dot(f32::from_le_bytes(before), terms).to_le_bytes()
        },
    );
}

/// The oracle of the four byte products: exact in i64, then the low dword.
fn int8_oracle(run: fn(), left_signed: bool, right_signed: bool) {
    let mut numbers = Numbers(7);
    let value = |byte: u8, signed: bool| if signed { i64::from(byte as i8) } else { i64::from(byte) };
    equals_the_oracle(
        run,
        || (numbers.next() >> 20) as u16,
        |before, dwords| {
            let terms = dwords.into_iter().flat_map(|(l, r)| l.into_iter().zip(r));
            let products = terms.map(|(l, r)| value(l, left_signed) * value(r, right_signed));
            ((i64::from(u32::from_le_bytes(before)) + products.sum::<i64>()) as u32).to_le_bytes()
        },
    );
}

#[test]
fn int8_dot_products_equal_the_scalar_oracle_for_all_four_signednesses() {
    int8_oracle(|| run!("tdpbssd tmm0, tmm2, tmm5"), true, true);
    int8_oracle(|| run!("tdpbsud tmm0, tmm2, tmm5"), true, false);
    int8_oracle(|| run!("tdpbusd tmm0, tmm2, tmm5"), false, true);
    int8_oracle(|| run!("tdpbuud tmm0, tmm2, tmm5"), false, false);
}

/// One element of TDPBF16PS over the given pairs of floats, all of which bf16 holds exactly.
fn one_bf16_element(before: f32, left: &[f32], right: &[f32]) -> f32 {
    let k = left.len() / 2;
    let upper = |x: &f32| (x.to_bits() >> 16) as u16;
    let left: Vec<u16> = left.iter().map(upper).collect();
    let right: Vec<u16> = right.iter().map(upper).collect();
    let mut sum = before;
    Config::of(&[(1, 4), (1, 4 * k), (k, 4)]).load();
    load!("tmm0", &raw const sum, 4);
    load!("tmm1", left.as_ptr(), 64);
    load!("tmm2", right.as_ptr(), 4);
    run!("tdpbf16ps tmm0, tmm1, tmm2");
    store!("tmm0", &raw mut sum, 4);
    sum
}

#[test]
fn even_and_odd_products_are_summed_apart_and_the_destination_last() {
    if !tiles_are_ready() {
        return;
    }
    let big = 2f32.powi(40);
    // In one running sum the 1 would be lost in `big`.
    assert_eq!(one_bf16_element(0.0, &[big, 1.0, -big, 0.0], &[1.0; 4]), 1.0);
    assert_eq!(one_bf16_element(1.0, &[big, -big], &[1.0; 2]), 1.0);
    // And here the two sums meet before the destination, in which they would cancel.
    assert_eq!(one_bf16_element(-big, &[big, 1.0], &[1.0; 2]), 0.0);
}

#[test]
fn denormals_are_zero_going_in_and_coming_out() {
    if !tiles_are_ready() {
        return;
    }
    let denormal = f32::from_bits(0x0001_0000);
    assert_eq!(one_bf16_element(0.0, &[denormal, 0.0], &[2f32.powi(120); 2]), 0.0);
    assert_eq!(one_bf16_element(denormal, &[0.0; 2], &[0.0; 2]).to_bits(), 0);
    assert_eq!(one_bf16_element(0.0, &[2f32.powi(-70), 0.0], &[2f32.powi(-60); 2]).to_bits(), 0);
}

#[test]
fn the_threads_rounding_mode_plays_no_part() {
    if !tiles_are_ready() {
        return;
    }
    // Even elements 1 * 1.5 * 2^-24, odd elements 1 * 1: the sum rounds up to nearest and down towards zero.
    let (left, right) = (0x3f80_3f80u32, 0x3f80_33c0u32);
    let (mut sum, mut own, towards_zero) = (0f32, 0u32, 0x7f80u32);
    Config::of(&[(1, 4), (1, 4), (1, 4)]).load();
    // SAFETY: the operands are live locals of 4 bytes; the thread's MXCSR is put back before the block ends.
    unsafe {
        asm!(
            "stmxcsr [{own}]",
            "ldmxcsr [{zero}]",
            "tileloadd tmm1, [{l}+{s}*1]",
            "tileloadd tmm2, [{r}+{s}*1]",
            "tdpbf16ps tmm0, tmm1, tmm2",
            "tilestored [{d}+{s}*1], tmm0",
            "ldmxcsr [{own}]",
            own = in(reg) &raw mut own, zero = in(reg) &raw const towards_zero, l = in(reg) &raw const left, r = in(reg) &raw const right,
            d = in(reg) &raw mut sum, s = in(reg) 4usize, options(nostack)
        )
    }
    assert_eq!(sum, 1.0 + f32::EPSILON);
}

#[test]
fn the_fused_step_is_that_of_the_processor_with_denormals_off() {
    if !is_x86_feature_detected!("fma") {
        eprintln!("NOT RUN: this processor has no FMA to compare with");
        return;
    }
    let mut numbers = Numbers(8);
    let (nearest_without_denormals, mut own) = (0x9fc0u32, 0u32);
    let mut tiny = 0;
    for _ in 0..300_000 {
        let (left, right) = (u32::from(numbers.bf16()) << 16, u32::from(numbers.bf16()) << 16);
        let sum = f32::from_bits(u32::from(numbers.bf16()) << 16 | numbers.next() as u32 & 0xffff);
        let sum = if sum.is_subnormal() { f32::MIN_POSITIVE } else { sum };
        let expected: f32;
        // SAFETY: FMA was detected; the operands are live locals; MXCSR is put back before the block ends.
        unsafe {
            asm!(
                "stmxcsr [{own}]",
                "ldmxcsr [{mode}]",
                "vfmadd231ss {s}, {l}, {r}",
                "ldmxcsr [{own}]",
                own = in(reg) &raw mut own, mode = in(reg) &raw const nearest_without_denormals,
                s = inlateout(xmm_reg) sum => expected,
                l = in(xmm_reg) f32::from_bits(left), r = in(xmm_reg) f32::from_bits(right), options(nostack)
            )
        }
        let found = multiply_add(left, right, sum);
        assert_eq!(found.to_bits(), expected.to_bits(), "{left:#x} * {right:#x} + {:#x}", sum.to_bits());
        tiny += u32::from(found == 0.0);
    }
    assert!(tiny > 100, "the numbers never came near the least normal one");
    // Tininess is judged after rounding: the first of these rounds back up to the least normal number.
    let step = |exponent: i32| {
        multiply_add((-(2f32.powi(-75))).to_bits(), 2f32.powi(exponent + 75).to_bits(), f32::MIN_POSITIVE)
    };
    assert_eq!((step(-152), step(-150)), (f32::MIN_POSITIVE, 0.0));
}

const ROWS: usize = 32;
const COLUMNS: usize = 32;

/// The inner loop of a bf16 kernel: a block of 32 rows by 32 columns in four accumulators, 32 of the depth a turn.
/// `left` has rows of `pitch` bytes; `right` is packed as two tiles a turn, each of 16 rows of 16 column pairs.
fn block_of_32_by_32(left: &[u16], right: &[u16], sums: &mut [f32], depth: usize) {
    assert_eq!((left.len(), right.len()), (ROWS * depth, COLUMNS * depth));
    assert_eq!((sums.len(), depth % 32), (ROWS * COLUMNS, 0));
    let pitch = 2 * depth;
    Config::of(&[(16, 64); 8]).load();
    // SAFETY: the lengths asserted above are those that the loop walks over.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{b}+{s}]",
            "tileloadd tmm6, [{a}+{lda}]",
            "tdpbf16ps tmm0, tmm6, tmm4",
            "tileloadd tmm5, [{b}+{s}+1024]",
            "tdpbf16ps tmm1, tmm6, tmm5",
            "tileloadd tmm7, [{a_low}+{lda}]",
            "tdpbf16ps tmm2, tmm7, tmm4",
            "add {a}, 64",
            "add {a_low}, 64",
            "add {b}, 2048",
            "dec {turns}",
            // Between the flag and its use: an emulated instruction must leave the flags alone.
            "tdpbf16ps tmm3, tmm7, tmm5",
            "jnz 2b",
            "tilestored [{c}+{ldc}], tmm0",
            "tilestored [{c}+{ldc}+64], tmm1",
            "tilestored [{c_low}+{ldc}], tmm2",
            "tilestored [{c_low}+{ldc}+64], tmm3",
            "tilerelease",
            a = inout(reg) left.as_ptr() => _,
            a_low = inout(reg) left[16 * depth..].as_ptr() => _,
            lda = in(reg) pitch,
            b = inout(reg) right.as_ptr() => _,
            s = in(reg) 64usize,
            turns = inout(reg) depth / 32 => _,
            c = in(reg) sums.as_mut_ptr(),
            c_low = in(reg) sums[16 * COLUMNS..].as_mut_ptr(),
            ldc = in(reg) 4 * COLUMNS,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        )
    }
}

#[test]
fn a_kernel_loop_multiplies_matrices() {
    if !tiles_are_ready() {
        return;
    }
    let mut numbers = Numbers(9);
    for depth in [32, 96, 384] {
        let turns = depth / 32;
        let mut matrix = |length| (0..length).map(|_| numbers.bf16()).collect::<Vec<u16>>();
        // Row-major: rows by depth, and depth by columns.
        let (left, right) = (matrix(ROWS * depth), matrix(depth * COLUMNS));
        let mut packed = vec![0; right.len()];
        for (k, column) in (0..depth).flat_map(|k| (0..COLUMNS).map(move |column| (k, column))) {
            let tile = (k / 32) * 2 + column / 16;
            packed[512 * tile + 32 * (k % 32 / 2) + 2 * (column % 16) + k % 2] = right[k * COLUMNS + column];
        }
        let mut sums = vec![f32::NAN; ROWS * COLUMNS];
        let before = instructions();
        block_of_32_by_32(&left, &packed, &mut sums, depth);
        // Other tests count at the same time, so this is a bound; the exact number is a law of `refusals`.
        assert!(processor_has_tiles() || instructions() - before >= (1 + 4 + 8 * turns + 4 + 1) as u64);
        for (row, column) in (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (row, column))) {
            let term = |k: usize| (left[row * depth + k], right[k * COLUMNS + column]);
            let expected =
                (0..turns).fold(0.0, |sum, turn| bf16_dot(sum, (32 * turn..32 * turn + 32).map(term)));
            assert_eq!(sums[row * COLUMNS + column], expected, "({row}, {column}) at depth {depth}");
        }
    }
}
