//! Sixteen lanes in one register. SAFETY of every block: as in `x86.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::*;

use half::bf16;

use super::{ask_to_write, sum_of_eight};
use crate::target::{Extremes, Target};

/// AVX-512; with `BF16` the machine rounds to bf16, too, and denormals to zero, as its products of bf16 do.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>;

impl<const BF16: bool> Target for Avx512<BF16> {
    const WIDE: bool = true;
    type Lanes = __m512;
    #[inline(always)]
    fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(lanes: __m512, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, lanes) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> __m512 {
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(lanes: __m512, to: *mut bf16) {
        unsafe {
            if BF16 {
                let words = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(lanes));
                return _mm256_storeu_si256(to.cast(), words);
            }
            let bits = _mm512_castps_si512(lanes);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let words = _mm512_srli_epi32::<16>(rounded);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(lanes, lanes);
            let words = _mm512_mask_mov_epi32(words, nan, _mm512_set1_epi32(0x7fc0));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(words));
        }
    }
    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_u8(lanes: __m512, to: *mut u8) {
        unsafe {
            let words = _mm512_max_epi32(_mm512_cvtps_epi32(lanes), _mm512_setzero_si512());
            _mm_storeu_si128(to.cast(), _mm512_cvtusepi32_epi8(words));
        }
    }
    #[inline(always)]
    unsafe fn store_64_u8(lanes: [__m512; 4], to: *mut u8) {
        unsafe {
            let (a, b) = (_mm512_cvtps_epi32(lanes[0]), _mm512_cvtps_epi32(lanes[1]));
            let (c, d) = (_mm512_cvtps_epi32(lanes[2]), _mm512_cvtps_epi32(lanes[3]));
            // Packing works within 128-bit quarters: of each there are four values of each register, one after the other.
            let bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_storeu_si512(to.cast(), _mm512_permutexvar_epi32(order, bytes));
        }
    }
    #[inline(always)]
    unsafe fn extremes_of_bf16(from: *const bf16, count: usize) -> Extremes {
        unsafe {
            // As integers bf16 are in order among those of one sign: signed, the greatest is the highest of those above zero, and
            // unsigned the lowest of those below.
            let (mut above, mut below) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            for at in (0..count - count % 32).step_by(32) {
                let values = _mm512_loadu_si512(from.add(at).cast());
                above = _mm512_max_epi16(above, values);
                below = _mm512_max_epu16(below, values);
            }
            if !count.is_multiple_of(32) {
                let values = _mm256_loadu_si256(from.add(count - 16).cast());
                let values = _mm512_zextsi256_si512(values);
                above = _mm512_max_epi16(above, values);
                below = _mm512_max_epu16(below, values);
            }
            let not_finite = _mm512_cmpgt_epi16_mask(above, _mm512_set1_epi16(0x7f7f))
                | _mm512_cmpgt_epu16_mask(below, _mm512_set1_epi16(0xff7f_u16 as i16));
            let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            let even = (_mm512_slli_epi32::<16>(above), _mm512_slli_epi32::<16>(below));
            let odd = (_mm512_and_si512(above, high), _mm512_and_si512(below, high));
            let lowest = _mm512_min_ps(_mm512_castsi512_ps(even.1), _mm512_castsi512_ps(odd.1));
            let highest = _mm512_max_ps(_mm512_castsi512_ps(even.0), _mm512_castsi512_ps(odd.0));
            Extremes {
                lowest: _mm512_reduce_min_ps(_mm512_min_ps(lowest, _mm512_setzero_ps())),
                highest: _mm512_reduce_max_ps(highest),
                finite: not_finite == 0,
            }
        }
    }
    #[inline(always)]
    unsafe fn store_i16(lanes: __m512, to: *mut i16) {
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(lanes))) }
    }
    #[inline(always)]
    unsafe fn transpose_words(rows: &[*const u32; 16], first: usize, to: *mut u32, stride: usize) {
        unsafe {
            let mut r = [_mm512_setzero_si512(); 16];
            for (r, row) in r.iter_mut().zip(rows) {
                *r = _mm512_loadu_si512(row.add(first).cast());
            }
            // Within each 128-bit quarter, words of four rows; then quarters of four such fours.
            let mut t = r;
            for i in (0..16).step_by(4) {
                let (a, b) = (_mm512_unpacklo_epi32(r[i], r[i + 1]), _mm512_unpackhi_epi32(r[i], r[i + 1]));
                let (c, d) =
                    (_mm512_unpacklo_epi32(r[i + 2], r[i + 3]), _mm512_unpackhi_epi32(r[i + 2], r[i + 3]));
                (t[i], t[i + 1]) = (_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c));
                (t[i + 2], t[i + 3]) = (_mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d));
            }
            for i in 0..4 {
                let low = _mm512_shuffle_i32x4::<0b10_00_10_00>(t[i], t[i + 4]);
                let high = _mm512_shuffle_i32x4::<0b11_01_11_01>(t[i], t[i + 4]);
                let low_after = _mm512_shuffle_i32x4::<0b10_00_10_00>(t[i + 8], t[i + 12]);
                let high_after = _mm512_shuffle_i32x4::<0b11_01_11_01>(t[i + 8], t[i + 12]);
                let quarters = [
                    _mm512_shuffle_i32x4::<0b10_00_10_00>(low, low_after),
                    _mm512_shuffle_i32x4::<0b10_00_10_00>(high, high_after),
                    _mm512_shuffle_i32x4::<0b11_01_11_01>(low, low_after),
                    _mm512_shuffle_i32x4::<0b11_01_11_01>(high, high_after),
                ];
                for (quarter, words) in quarters.into_iter().enumerate() {
                    _mm512_storeu_si512(to.add((quarter * 4 + i) * stride).cast(), words);
                }
            }
        }
    }
    #[inline(always)]
    fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn round(a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<8>(a) }
    }
    #[inline(always)]
    fn times_two_to(a: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    fn zero_below(a: __m512, x: __m512, limit: f32) -> __m512 {
        unsafe {
            let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(limit));
            _mm512_maskz_mov_ps(kept, a)
        }
    }
    #[inline(always)]
    fn sum(a: __m512) -> f32 {
        unsafe {
            let high = _mm512_extractf32x8_ps::<1>(a);
            sum_of_eight(_mm256_add_ps(_mm512_castps512_ps256(a), high))
        }
    }
    #[inline(always)]
    fn highest(a: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    fn ask_to_write(line: *const u8) {
        ask_to_write(line);
    }
}
