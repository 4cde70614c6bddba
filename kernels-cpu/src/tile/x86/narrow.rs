//! The products in 256-bit registers: a few rows by the whole panel at once, more in parts, by the whole panel or by one half after
//! the other.

use std::arch::x86_64::*;

use super::super::{AHEAD, TileCall};
use super::narrow_steps::{f32_steps, int8_steps, int8_vnni_steps, widened_steps};
use super::{fetch, fetch_near};
use crate::packed_matrix::{PANEL, STEP_BYTES};

/// Most rows that the registers have by the whole panel at once.
const WHOLE_ROWS: usize = 2;
/// Steps of one round of the innermost loop.
const UNROLLED: usize = 4;
/// Most steps of a turn where the panel meets many rows: it comes from the second-level cache then, which gives it faster than a part
/// computes, and sums are put down and taken up again seldom.
const MANY_STEPS: usize = 512;

// SAFETY of the functions below: the caller of a `TileFn` promises the instructions, that rows and panel lie where the call
// says and that there is room for the sums; all reads are of `steps` steps of each.

/// A form with 256-bit registers: the whole panel's width for a few rows. More rows go in parts of at most `$most`, as many as the
/// registers have by `$width` registers of a panel, all of it or half of it, and of at most `$of_half` where there is no more than
/// half of one; by turns: all parts take some steps before the next ones come, so that a panel comes from memory once and while
/// all of them compute.
///
/// `$dot` adds the products of some steps (`narrow_steps`), of which each takes `$step` bytes of a row.
macro_rules! narrow {
    ($name:ident: $dot:ident, $features:literal, $step:literal, $most:literal by $width:literal: $($part:literal)*,
        $of_half:literal of half: $($half:literal)*, $zero:expr,
        $load:ident, $store:ident) => {
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
                    let mut acc = [[$zero; C]; R];
                    if call.accumulate {
                        for (r, acc) in acc.iter_mut().enumerate() {
                            for (c, acc) in acc.iter_mut().enumerate() {
                                *acc = $load(call.out.add(r * PANEL + first + c * 8).cast());
                            }
                        }
                    }
                    let mut part = Some(call);
                    while let Some(call) = part {
                        let (mut a, mut panel, stride) = (call.a, call.panel.add(first * 4), call.stride);
                        let in_a_row = if call.panel_stride == STEP_BYTES { call.steps / UNROLLED } else { 0 };
                        for _ in 0..in_a_row {
                            if let Some(fetched) = fetched {
                                for step in 0..UNROLLED {
                                    fetch(panel.wrapping_add(step * STEP_BYTES + call.ahead + fetched), C / 2);
                                }
                            }
                            $dot::<R, C, UNROLLED>(a, stride, panel, &mut acc);
                            a = a.add(UNROLLED * $step);
                            panel = panel.wrapping_add(UNROLLED * STEP_BYTES);
                        }
                        for _ in in_a_row * UNROLLED..call.steps {
                            if let Some(fetched) = fetched {
                                fetch(panel.wrapping_add(call.ahead + fetched), C / 2);
                            }
                            $dot::<R, C, 1>(a, stride, panel, &mut acc);
                            a = a.add($step);
                            panel = panel.wrapping_add(call.panel_stride);
                        }
                        part = call.next;
                    }
                    for (r, acc) in acc.into_iter().enumerate() {
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
                let most = if call.many_rows {
                    MANY_STEPS
                } else {
                    call.ahead.max(AHEAD) / call.panel_stride.min(STEP_BYTES)
                };
                // Spread over the parts, what comes next costs none of them anything.
                let lines = call.coming.len().div_ceil(64).div_ceil(parts * call.steps.div_ceil(most).max(1));
                let mut coming = call.coming.chunks(lines.max(1) * 64);
                for from in (0..call.steps).step_by(most) {
                    let steps = most.min(call.steps - from);
                    let mut at = 0;
                    for number in 0..parts {
                        let count = (rows - at).div_ceil(parts - number);
                        if let Some(coming) = coming.next() {
                            fetch_near(coming);
                        }
                        // SAFETY: see above; the part's rows are some of the call's.
                        unsafe {
                            let next = call.next.map(|next| next.rows_from(at));
                            let own = call.rows_from(at);
                            let turn = TileCall {
                                a: own.a.add(from * $step),
                                panel: call.panel.wrapping_add(from * call.panel_stride),
                                steps,
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

narrow!(
    f32_avx2: f32_steps,
    "avx2,fma",
    4,
    3 by 4: 1 2 3,
    6 of half: 1 2 3 4 5 6,
    _mm256_setzero_ps(),
    _mm256_loadu_ps,
    _mm256_storeu_ps
);

narrow!(
    widened_avx2: widened_steps,
    "avx2,fma",
    8,
    5 by 2: 1 2 3 4 5,
    5 of half: 1 2 3 4 5,
    _mm256_setzero_ps(),
    _mm256_loadu_ps,
    _mm256_storeu_ps
);

narrow!(
    int8_avxvnni: int8_vnni_steps,
    "avx2,avxvnni",
    4,
    6 by 2: 1 2 3 4 5 6,
    6 of half: 1 2 3 4 5 6,
    _mm256_setzero_si256(),
    _mm256_loadu_si256,
    _mm256_storeu_si256
);

narrow!(
    int8_avx2: int8_steps,
    "avx2",
    4,
    3 by 4: 1 2 3,
    4 of half: 1 2 3 4,
    _mm256_setzero_si256(),
    _mm256_loadu_si256,
    _mm256_storeu_si256
);
