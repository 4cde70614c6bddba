//! The x86 targets: AVX2, and AVX-512 in `wide.rs`. SAFETY of every block: the methods are inlined into functions that `dispatch` compiles for the
//! instruction set and enters only where it was detected; for loads and stores the callers promise sixteen values.
#![allow(clippy::undocumented_unsafe_blocks)]

mod wide;

use std::arch::asm;
use std::arch::x86_64::*;

use half::bf16;

use super::Target;
pub(crate) use wide::Avx512;

/// AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

type Pair = (__m256, __m256);

/// `f` on both registers.
macro_rules! both {
    ($f:ident $(::<$c:tt>)? ($($arg:ident),*)) => { unsafe { ($f$(::<$c>)?($($arg.0),*), $f$(::<$c>)?($($arg.1),*)) } };
}

impl Target for Avx2 {
    const WIDE: bool = false;
    type Lanes = Pair;
    #[inline(always)]
    fn splat(value: f32) -> Pair {
        let v = unsafe { _mm256_set1_ps(value) };
        (v, v)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Pair {
        unsafe { (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(lanes: Pair, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, lanes.0);
            _mm256_storeu_ps(to.add(8), lanes.1);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Pair {
        unsafe {
            let words = _mm256_loadu_si256(from.cast());
            (widened(_mm256_castsi256_si128(words)), widened(_mm256_extracti128_si256::<1>(words)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(lanes: Pair, to: *mut bf16) {
        unsafe {
            let (low, high) = (bf16_words(lanes.0), bf16_words(lanes.1));
            // Packing works within 128-bit halves: the quarters come out as 0, 2, 1, 3.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
            _mm256_storeu_si256(to.cast(), words);
        }
    }
    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Pair {
        unsafe {
            (
                _mm256_cvtepi32_ps(_mm256_loadu_si256(from.cast())),
                _mm256_cvtepi32_ps(_mm256_loadu_si256(from.add(8).cast())),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_u8(lanes: Pair, to: *mut u8) {
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(lanes.0), _mm256_cvtps_epi32(lanes.1));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), bytes);
        }
    }
    #[inline(always)]
    unsafe fn store_i16(lanes: Pair, to: *mut i16) {
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(lanes.0), _mm256_cvtps_epi32(lanes.1));
            _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(words));
        }
    }
    #[inline(always)]
    unsafe fn transpose_words(rows: &[*const u32; 16], first: usize, to: *mut u32, stride: usize) {
        for (half, rows) in rows.chunks_exact(8).enumerate() {
            for words in [0, 8] {
                unsafe {
                    let mut r = [_mm256_setzero_si256(); 8];
                    for (r, row) in r.iter_mut().zip(rows) {
                        *r = _mm256_loadu_si256(row.add(first + words).cast());
                    }
                    // Within each 128-bit half, words of four rows; then halves of two such fours.
                    let mut t = r;
                    for i in [0, 4] {
                        let (a, b) =
                            (_mm256_unpacklo_epi32(r[i], r[i + 1]), _mm256_unpackhi_epi32(r[i], r[i + 1]));
                        let (c, d) = (
                            _mm256_unpacklo_epi32(r[i + 2], r[i + 3]),
                            _mm256_unpackhi_epi32(r[i + 2], r[i + 3]),
                        );
                        (t[i], t[i + 1]) = (_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c));
                        (t[i + 2], t[i + 3]) = (_mm256_unpacklo_epi64(b, d), _mm256_unpackhi_epi64(b, d));
                    }
                    for i in 0..4 {
                        let to = to.add((words + i) * stride + half * 8);
                        _mm256_storeu_si256(to.cast(), _mm256_permute2x128_si256::<0x20>(t[i], t[i + 4]));
                        let to = to.add(4 * stride);
                        _mm256_storeu_si256(to.cast(), _mm256_permute2x128_si256::<0x31>(t[i], t[i + 4]));
                    }
                }
            }
        }
    }
    #[inline(always)]
    fn add(a: Pair, b: Pair) -> Pair {
        both!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(a: Pair, b: Pair) -> Pair {
        both!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(a: Pair, b: Pair) -> Pair {
        both!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(a: Pair, b: Pair) -> Pair {
        both!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(a: Pair, b: Pair, c: Pair) -> Pair {
        both!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn min(a: Pair, b: Pair) -> Pair {
        both!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn max(a: Pair, b: Pair) -> Pair {
        both!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn round(a: Pair) -> Pair {
        both!(_mm256_round_ps::<8>(a))
    }
    #[inline(always)]
    fn times_two_to(a: Pair, n: Pair) -> Pair {
        Self::mul(a, unsafe { (power_of_two(n.0), power_of_two(n.1)) })
    }
    #[inline(always)]
    fn zero_below(a: Pair, x: Pair, limit: f32) -> Pair {
        let limit = Self::splat(limit);
        let below = both!(_mm256_cmp_ps::<_CMP_LT_OQ>(x, limit));
        both!(_mm256_andnot_ps(below, a))
    }
    #[inline(always)]
    fn sum(a: Pair) -> f32 {
        unsafe { sum_of_eight(_mm256_add_ps(a.0, a.1)) }
    }
    #[inline(always)]
    fn highest(a: Pair) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(a.0, a.1);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn ask_to_write(line: *const u8) {
        ask_to_write(line);
    }
}

#[inline(always)]
unsafe fn sum_of_eight(eight: __m256) -> f32 {
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

#[inline(always)]
unsafe fn power_of_two(n: __m256) -> __m256 {
    unsafe {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
}

/// Eight bf16 as f32.
#[inline(always)]
unsafe fn widened(words: __m128i) -> __m256 {
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(words))) }
}

/// Eight values as bf16 in the low halves of 32-bit words.
#[inline(always)]
unsafe fn bf16_words(values: __m256) -> __m256i {
    unsafe {
        let bits = _mm256_castps_si256(values);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
        let words = _mm256_srli_epi32::<16>(rounded);
        _mm256_blendv_epi8(words, _mm256_set1_epi32(0x7fc0), nan)
    }
}

/// By name: the intrinsic asks to read where the compiler does not count on the instruction, which older machines pass over.
#[inline(always)]
fn ask_to_write(line: *const u8) {
    unsafe { asm!("prefetchw [{}]", in(reg) line, options(readonly, nostack, preserves_flags)) };
}
