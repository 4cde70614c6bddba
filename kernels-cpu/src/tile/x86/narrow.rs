//! The products in 256-bit registers: a few rows by the whole panel at once, more in parts, by the whole panel or by one half after
//! the other.

use std::arch::x86_64::*;

use super::super::{AHEAD, TileCall};
use super::fetch;
use crate::packed_matrix::{PANEL, STEP_BYTES};

/// Most rows that the registers have by the whole panel at once.
const WHOLE_ROWS: usize = 2;
/// [`AHEAD`] where memory is not what takes time: longer turns, so that sums are put down and taken up again less often. The
/// first-level cache has room for a turn, the next one and the rows.
const FAR_AHEAD: usize = 8192;

// SAFETY of the functions below: the caller of a `TileFn` promises the instructions, that rows and panel lie where the call
// says and that there is room for the sums; all reads are of `steps` steps of each.

/// A form with 256-bit registers: the whole panel's width for a few rows. More rows go in parts of at most `$most`, as many as the
/// registers have by `$width` registers of a panel, all of it or half of it, and of at most `$of_half` where there is no more than
/// half of one; by turns: all parts take some steps before the next ones come, so that a panel comes from memory once and while
/// all of them compute.
///
/// `$dot` adds a step's products of `R` rows, `$stride` bytes apart, and `C` registers of a panel.
macro_rules! narrow {
    ($name:ident, $features:literal, $step:literal, $most:literal by $width:literal: $($part:literal)*,
        $of_half:literal of half: $($half:literal)*, $zero:expr,
        |$a:ident, $stride:ident, $panel:ident, $acc:ident| $dot:block, $load:ident, $store:ident) => {
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<const R: usize>(call: &TileCall<'_>) {
            /// `C` registers of columns, from column `first` on; of panels is fetched what lies `fetched`
            /// bytes and those of [`TileCall::ahead`] after that column.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn columns<const R: usize, const C: usize>(
                call: &TileCall<'_>,
                first: usize,
                fetched: Option<usize>,
            ) {
                // SAFETY: see above.
                unsafe {
                    let mut $acc = [[$zero; C]; R];
                    if call.accumulate {
                        for (r, acc) in $acc.iter_mut().enumerate() {
                            for (c, acc) in acc.iter_mut().enumerate() {
                                *acc = $load(call.out.add(r * PANEL + first + c * 8).cast());
                            }
                        }
                    }
                    let mut part = Some(call);
                    while let Some(call) = part {
                        let (mut $a, mut $panel, $stride) = (call.a, call.panel.add(first * 4), call.stride);
                        for _ in 0..call.steps {
                            if let Some(fetched) = fetched {
                                fetch($panel.wrapping_add(call.ahead + fetched), C / 2);
                            }
                            $dot
                            $a = $a.add($step);
                            $panel = $panel.wrapping_add(call.panel_stride);
                        }
                        part = call.next;
                    }
                    for (r, acc) in $acc.into_iter().enumerate() {
                        for (c, acc) in acc.into_iter().enumerate() {
                            $store(call.out.add(r * PANEL + first + c * 8).cast(), acc);
                        }
                    }
                }
            }
            /// A part's width of a panel, or half of a panel, by the first `rows` rows.
            #[target_feature(enable = $features)]
            unsafe fn part(call: &TileCall<'_>, rows: usize, first: usize, fetched: Option<usize>) {
                // SAFETY: see above.
                unsafe {
                    match (rows, fetched) {
                        $(($half, _) if call.half => columns::<$half, 2>(call, first, fetched),)*
                        $(($part, None) => columns::<$part, $width>(call, first, None),
                        ($part, _) => columns::<$part, $width>(call, first, fetched),)*
                        _ => unreachable!("more rows than the registers have"),
                    }
                }
            }
            /// All rows, `rows` of them, in parts. A turn has as many steps as are fetched ahead, so that the next one is in the
            /// first-level cache when the first part reads it.
            #[target_feature(enable = $features)]
            unsafe fn parts(call: &TileCall<'_>, rows: usize) {
                let parts = rows.div_ceil(if call.half { $of_half } else { $most });
                let by_halves = $width == 2 && !call.half;
                let ahead = if call.many_rows { FAR_AHEAD } else { call.ahead };
                let most = ahead.max(AHEAD) / call.panel_stride.min(STEP_BYTES);
                for from in (0..call.steps).step_by(most) {
                    let steps = most.min(call.steps - from);
                    let mut at = 0;
                    for number in 0..parts {
                        let count = (rows - at).div_ceil(parts - number);
                        // SAFETY: see above; the part's rows are some of the call's.
                        unsafe {
                            let next = call.next.map(|next| next.rows_from(at));
                            let own = call.rows_from(at);
                            let turn = TileCall {
                                a: own.a.add(from * $step),
                                panel: call.panel.wrapping_add(from * call.panel_stride),
                                steps,
                                ahead,
                                accumulate: call.accumulate || from > 0,
                                next: next.as_ref().filter(|_| from + steps == call.steps),
                                ..own
                            };
                            // A line of a whole step is fetched once: by the first part, or where that reads half of them, by it
                            // and the last.
                            let (low, high) = match number {
                                0 if parts == 1 => (Some(0), Some(0)),
                                0 => (Some(0), None),
                                _ if number + 1 == parts && by_halves => (Some(STEP_BYTES / 2), None),
                                _ => (None, None),
                            };
                            part(&turn, count, 0, low);
                            if by_halves {
                                part(&turn, count, PANEL / 2, high);
                            }
                        }
                        at += count;
                    }
                }
            }
            // SAFETY: see above.
            unsafe {
                if R <= WHOLE_ROWS && !call.half {
                    columns::<R, 4>(call, 0, Some(0));
                } else if R <= WHOLE_ROWS {
                    columns::<R, 2>(call, 0, Some(0));
                } else {
                    parts(call, R);
                }
            }
        }
    };
}

/// The `C` registers of a step of a panel.
macro_rules! step_of {
    ($panel:ident) => {{
        let mut step = [_mm256_setzero_si256(); C];
        for (c, register) in step.iter_mut().enumerate() {
            *register = _mm256_loadu_si256($panel.add(c * 32).cast());
        }
        step
    }};
}

// All rows meet a register of the panel before the next one is read: three rows' values stay in registers, so that twelve sums
// take seven loads.
narrow!(
    f32_avx2,
    "avx2,fma",
    4,
    3 by 4: 1 2 3,
    6 of half: 1 2 3 4 5 6,
    _mm256_setzero_ps(),
    |a, stride, panel, acc| {
        let mut x = [_mm256_setzero_ps(); R];
        for (r, x) in x.iter_mut().enumerate() {
            *x = _mm256_set1_ps(a.add(r * stride).cast::<f32>().read_unaligned());
        }
        for c in 0..C {
            let b = _mm256_loadu_ps(panel.add(c * 32).cast());
            for (acc, x) in acc.iter_mut().zip(x) {
                acc[c] = _mm256_fmadd_ps(x, b, acc[c]);
            }
        }
    },
    _mm256_loadu_ps,
    _mm256_storeu_ps
);

narrow!(
    widened_avx2,
    "avx2,fma",
    8,
    5 by 2: 1 2 3 4 5,
    5 of half: 1 2 3 4 5,
    _mm256_setzero_ps(),
    |a, stride, panel, acc| {
        let step = step_of!(panel);
        for (r, acc) in acc.iter_mut().enumerate() {
            let x = a.add(r * stride).cast::<f32>();
            let (x0, x1) = (_mm256_set1_ps(x.read_unaligned()), _mm256_set1_ps(x.add(1).read_unaligned()));
            for (acc, b) in acc.iter_mut().zip(step) {
                let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b));
                let odd = _mm256_castsi256_ps(_mm256_and_si256(b, _mm256_set1_epi32(0xffff_0000_u32 as i32)));
                *acc = _mm256_fmadd_ps(x1, odd, _mm256_fmadd_ps(x0, even, *acc));
            }
        }
    },
    _mm256_loadu_ps,
    _mm256_storeu_ps
);

narrow!(
    int8_avxvnni,
    "avx2,avxvnni",
    4,
    6 by 2: 1 2 3 4 5 6,
    6 of half: 1 2 3 4 5 6,
    _mm256_setzero_si256(),
    |a, stride, panel, acc| {
        let step = step_of!(panel);
        for (r, acc) in acc.iter_mut().enumerate() {
            let x = _mm256_set1_epi32(a.add(r * stride).cast::<i32>().read_unaligned());
            for (acc, b) in acc.iter_mut().zip(step) {
                *acc = _mm256_dpbusd_avx_epi32(*acc, x, b);
            }
        }
    },
    _mm256_loadu_si256,
    _mm256_storeu_si256
);

// Bytes to 16-bit halves first: the instruction that multiplies bytes would saturate their sums.
narrow!(
    int8_avx2,
    "avx2",
    4,
    4 by 2: 1 2 3 4,
    4 of half: 1 2 3 4,
    _mm256_setzero_si256(),
    |a, stride, panel, acc| {
        let step = step_of!(panel);
        for (r, acc) in acc.iter_mut().enumerate() {
            let x = _mm256_set1_epi32(a.add(r * stride).cast::<i32>().read_unaligned());
            let (x_even, x_odd) = (_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(x));
            for (acc, b) in acc.iter_mut().zip(step) {
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b));
                let odd = _mm256_srai_epi16::<8>(b);
                let sum = _mm256_add_epi32(_mm256_madd_epi16(x_even, even), _mm256_madd_epi16(x_odd, odd));
                *acc = _mm256_add_epi32(*acc, sum);
            }
        }
    },
    _mm256_loadu_si256,
    _mm256_storeu_si256
);
