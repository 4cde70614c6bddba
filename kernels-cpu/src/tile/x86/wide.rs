//! The products in 512-bit registers.

use std::arch::x86_64::*;

use super::super::{Scaling, TileCall};
use super::{fetch, fetch_into};
use crate::packed_matrix::PANEL;

/// Most rows of a form that fetches ahead; with more it computes longer than it waits.
const FETCH_ROWS: usize = 8;

// SAFETY of the functions below: the caller of a `TileFn` promises the instructions, that rows and panel lie where the call
// says and that there is room for the sums; all reads are of `steps` steps of each, and of the factors of rows and columns.

/// What is asked for beside the steps of a product.
struct Asking {
    coming: *const u8,
    /// Bytes from step to step: a line a step is enough for all of what is to come where a tile has half of the panel's rows or fewer.
    each: usize,
}

impl Asking {
    #[inline(always)]
    fn beside(call: &TileCall<'_>) -> Self {
        match call.coming {
            // What is read already: an address of nothing takes long to look up.
            [] => Self { coming: call.panel, each: 0 },
            share => Self { coming: share.as_ptr(), each: share.len().div_ceil(call.steps) },
        }
    }

    /// At the step of `panel`, for `R` rows by `C` registers: for what lies `ahead` of it where the rows are few, and for a piece of what is
    /// to come, into the second-level cache.
    #[inline(always)]
    fn step<const R: usize, const C: usize>(&mut self, panel: *const u8, ahead: usize) {
        if R <= FETCH_ROWS {
            fetch(panel.wrapping_add(ahead), C);
        }
        fetch_into::<_MM_HINT_T1>(self.coming, 1);
        self.coming = self.coming.wrapping_add(self.each);
    }
}

/// Adds the products of a call's steps to `$sums`, `[[register; C]; R]`: by the whole panel's width or half of it, one step an
/// iteration.
macro_rules! add_products {
    ($sums:ident, $call:expr, |$acc:ident, $x:ident, $b:ident| $dot:expr) => {
        let call: &TileCall<'_> = $call;
        let (mut a, mut panel) = (call.a, call.panel);
        let mut asking = Asking::beside(call);
        for _ in 0..call.steps {
            asking.step::<R, C>(panel, call.ahead);
            let mut b = [_mm512_setzero_si512(); C];
            for (c, b) in b.iter_mut().enumerate() {
                *b = _mm512_loadu_si512(panel.add(c * 64).cast());
            }
            for (r, acc) in $sums.iter_mut().enumerate() {
                let $x = _mm512_set1_epi32(a.add(r * call.stride).cast::<i32>().read_unaligned());
                for (acc, $b) in acc.iter_mut().zip(b) {
                    let $acc = *acc;
                    *acc = $dot;
                }
            }
            a = a.add(4);
            panel = panel.wrapping_add(call.panel_stride);
        }
    };
}

/// A form with 512-bit registers.
macro_rules! wide {
    ($name:ident, $features:literal, $zero:expr, |$acc:ident, $x:ident, $b:ident| $dot:expr, $load:expr, $store:expr) => {
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<const R: usize>(call: &TileCall<'_>) {
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn columns<const R: usize, const C: usize, const ADD: bool>(call: &TileCall<'_>) {
                // SAFETY: see above.
                unsafe {
                    let mut sums = [[$zero; C]; R];
                    if ADD {
                        for (r, sums) in sums.iter_mut().enumerate() {
                            for (c, sums) in sums.iter_mut().enumerate() {
                                *sums = $load(call.out.add(r * PANEL + c * 16).cast());
                            }
                        }
                    }
                    let mut part = Some(call);
                    while let Some(call) = part {
                        add_products!(sums, call, |$acc, $x, $b| $dot);
                        part = call.next;
                    }
                    // By reference: by value the sums would go through memory once more.
                    for (r, sums) in sums.iter().enumerate() {
                        for (c, sums) in sums.iter().enumerate() {
                            $store(call.out.add(r * PANEL + c * 16), *sums);
                        }
                    }
                }
            }
            // SAFETY: see above.
            unsafe {
                match (call.is_half(), call.accumulate) {
                    (false, false) => columns::<R, 2, false>(call),
                    (false, true) => columns::<R, 2, true>(call),
                    (true, false) => columns::<R, 1, false>(call),
                    (true, true) => columns::<R, 1, true>(call),
                }
            }
        }
    };
}

wide!(
    f32_avx512,
    "avx512f",
    _mm512_setzero_ps(),
    |acc, x, b| _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(b), acc),
    _mm512_loadu_ps,
    store_f32
);
wide!(
    bf16_avx512,
    "avx512f,avx512bf16",
    _mm512_setzero_ps(),
    |acc, x, b| _mm512_dpbf16_ps(acc, as_bf16(x), as_bf16(b)),
    _mm512_loadu_ps,
    store_f32
);
wide!(
    int8_avx512,
    "avx512f,avx512vnni",
    _mm512_setzero_si512(),
    |acc, x, b| _mm512_dpbusd_epi32(acc, x, b),
    _mm512_loadu_si512,
    store_i32
);

/// Bytes where the machine multiplies bf16, too: with [`Scaling::Bytes`] sums become f32 in their registers, to which products of bf16
/// that follow are added.
#[target_feature(enable = "avx512f,avx512vnni,avx512bf16")]
pub(super) unsafe fn int8_bf16_avx512<const R: usize>(call: &TileCall<'_>) {
    debug_assert!(!call.accumulate);
    // SAFETY: see above.
    unsafe { if call.is_half() { bytes::<R, 1>(call) } else { bytes::<R, 2>(call) } }
}

#[inline]
#[target_feature(enable = "avx512f,avx512vnni,avx512bf16")]
unsafe fn bytes<const R: usize, const C: usize>(call: &TileCall<'_>) {
    // SAFETY: see above.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); C]; R];
        add_products!(sums, call, |acc, x, b| _mm512_dpbusd_epi32(acc, x, b));
        let Scaling::Bytes(factors) = call.scaling else {
            for (r, sums) in sums.iter().enumerate() {
                for (c, sums) in sums.iter().enumerate() {
                    store_i32(call.out.add(r * PANEL + c * 16), *sums);
                }
            }
            return;
        };
        let mut settled = [[_mm512_setzero_ps(); C]; R];
        for c in 0..C {
            let of_weights = _mm512_loadu_ps(factors.scales.add(c * 16));
            let totals = _mm512_loadu_ps(factors.totals.add(c * 16));
            // Read for each column anew: there is no register to keep what is known.
            let of_rows = std::hint::black_box(factors.of_rows);
            for (r, (settled, sums)) in settled.iter_mut().zip(&sums).enumerate() {
                let [scale, zero] = *of_rows.add(r);
                // As `from_integers` does it, to the bit.
                let weights = _mm512_mul_ps(_mm512_set1_ps(scale), of_weights);
                let offset = _mm512_mul_ps(_mm512_set1_ps(zero), totals);
                settled[c] = _mm512_fmsub_ps(_mm512_cvtepi32_ps(sums[c]), weights, offset);
            }
        }
        let mut part = call.next;
        while let Some(next) = part {
            add_products!(settled, next, |acc, x, b| _mm512_dpbf16_ps(acc, as_bf16(x), as_bf16(b)));
            part = next.next;
        }
        for (r, settled) in settled.iter().enumerate() {
            for (c, settled) in settled.iter().enumerate() {
                store_f32(call.out.add(r * PANEL + c * 16), *settled);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store_f32(to: *mut u32, sums: __m512) {
    // SAFETY: see above.
    unsafe { _mm512_storeu_ps(to.cast(), sums) }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store_i32(to: *mut u32, sums: __m512i) {
    // SAFETY: see above.
    unsafe { _mm512_storeu_si512(to.cast(), sums) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without further meaning.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}

/// bf16 without its dot product: a pair is two f32 with the low halves cut off.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn widened_avx512<const R: usize>(call: &TileCall<'_>) {
    // SAFETY: see above.
    unsafe { if call.is_half() { widened_columns::<R, 1>(call) } else { widened_columns::<R, 2>(call) } }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn widened_columns<const R: usize, const C: usize>(call: &TileCall<'_>) {
    // SAFETY: see above.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); C]; R];
        if call.accumulate {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (c, acc) in acc.iter_mut().enumerate() {
                    *acc = _mm512_loadu_ps(call.out.add(r * PANEL + c * 16).cast());
                }
            }
        }
        let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        let mut part = Some(call);
        while let Some(call) = part {
            let (mut a, mut panel) = (call.a, call.panel);
            let mut asking = Asking::beside(call);
            for _ in 0..call.steps {
                asking.step::<R, C>(panel, call.ahead);
                let (mut even, mut odd) = ([_mm512_setzero_ps(); C], [_mm512_setzero_ps(); C]);
                for c in 0..C {
                    let pairs = _mm512_loadu_si512(panel.add(c * 64).cast());
                    even[c] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
                    odd[c] = _mm512_castsi512_ps(_mm512_and_si512(pairs, high));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = a.add(r * call.stride).cast::<f32>();
                    let (x0, x1) =
                        (_mm512_set1_ps(x.read_unaligned()), _mm512_set1_ps(x.add(1).read_unaligned()));
                    for c in 0..C {
                        acc[c] = _mm512_fmadd_ps(x1, odd[c], _mm512_fmadd_ps(x0, even[c], acc[c]));
                    }
                }
                a = a.add(8);
                panel = panel.wrapping_add(call.panel_stride);
            }
            part = call.next;
        }
        for (r, acc) in acc.iter().enumerate() {
            for (c, acc) in acc.iter().enumerate() {
                store_f32(call.out.add(r * PANEL + c * 16), *acc);
            }
        }
    }
}
