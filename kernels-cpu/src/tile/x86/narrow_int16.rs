//! The product of 16-bit integers in 256-bit registers: adapters' `B h`, over a few steps.

use std::arch::x86_64::*;

use super::super::TileCall;
use super::fetch;
use crate::aligned::LINE;
use crate::packed_matrix::{PANEL, STEP_BYTES};

/// Most rows that the registers have by half a panel.
const MOST: usize = 5;

/// `R` rows, in parts as even as can be, by one half of the panel and the other. Over so few steps what is done but once counts: there
/// are no turns, sums are added to what is there at the end, and nothing follows.
///
/// # Safety
/// As for a [`TileFn`](super::super::TileFn); the panel is a whole one, as it lies in a packed matrix.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn int16_avx2<const R: usize>(call: &TileCall<'_>) {
    debug_assert!(
        call.panel_stride == STEP_BYTES && call.columns == PANEL && call.accumulate && call.next.is_none()
    );
    let parts = R.div_ceil(MOST);
    let mut at = 0;
    for number in 0..parts {
        let rows = (R - at).div_ceil(parts - number);
        for half in [0, PANEL / 2] {
            // SAFETY: as the caller promises; the part's rows are some of the call's.
            unsafe {
                match rows {
                    1 => part::<1>(call, at, half),
                    2 => part::<2>(call, at, half),
                    3 => part::<3>(call, at, half),
                    4 => part::<4>(call, at, half),
                    _ => part::<MOST>(call, at, half),
                }
            }
        }
        at += rows;
    }
}

/// `R` rows from row `at` on by the columns from `first` on.
///
/// # Safety
/// As for [`int16_avx2`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn part<const R: usize>(call: &TileCall<'_>, at: usize, first: usize) {
    let mut acc = [[_mm256_setzero_si256(); 2]; R];
    let factors = call.scaling.of_int16();
    // SAFETY: as the caller promises; fetching is a hint.
    unsafe {
        let (mut a, mut panel) = (call.a.add(at * call.stride), call.panel.add(first * size_of::<u32>()));
        let out = call.out.add(at * PANEL + first);
        for _ in 0..call.steps {
            if at == 0 {
                fetch(panel.wrapping_add(call.ahead), STEP_BYTES / LINE / 2);
            }
            let b = [_mm256_loadu_si256(panel.cast()), _mm256_loadu_si256(panel.add(32).cast())];
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm256_set1_epi32(a.add(r * call.stride).cast::<i32>().read_unaligned());
                for (acc, b) in acc.iter_mut().zip(b) {
                    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(x, b));
                }
            }
            (a, panel) = (a.add(size_of::<i32>()), panel.wrapping_add(STEP_BYTES));
        }
        for (r, acc) in acc.into_iter().enumerate() {
            let factor = factors.of_row((at + r) * call.stride);
            let factor = _mm256_set1_ps(factor);
            for (c, acc) in acc.into_iter().enumerate() {
                let sums = out.add(r * PANEL + c * 8).cast::<f32>();
                let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), factor, _mm256_loadu_ps(sums));
                _mm256_storeu_ps(sums, sum);
            }
        }
    }
}
