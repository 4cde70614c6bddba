//! The products in 256-bit registers: a few rows by the whole panel at once, more in parts, by the whole panel or by one half after
//! the other.

use std::arch::x86_64::*;

use super::super::{AHEAD, TileCall};
use super::narrow_steps::{
    UNROLLED, f32_steps, four_spread_int8_steps, int8_steps, int8_vnni_steps, widened_steps,
};
use super::{fetch, fetch_into};
use crate::aligned::LINE;
use crate::packed_matrix::{PANEL, STEP_BYTES};

/// Most rows that the registers have by the whole panel at once.
const WHOLE_ROWS: usize = 2;
/// Bytes of a panel in a turn: what is fetched ahead, and one part after another reads from the first-level cache.
const TURN_BYTES: usize = 8192;
/// Columns of a register.
const COLUMNS: usize = 8;
/// Most steps of a turn where the panel meets many rows: it comes from the second-level cache then, which gives it faster than a part
/// computes, and sums are put down and taken up again seldom.
const MANY_STEPS: usize = 512;

// SAFETY of the functions below: the caller of a `TileFn` promises the instructions, that rows and panel lie where the call
// says and that there is room for the sums; all reads are of `steps` steps of each.

/// A form with 256-bit registers: the whole panel's width for a few rows. More rows go in parts of at most `$most`, as many as the
/// registers have by `$width` registers of a panel, all of it or half of it, and of at most `$of_half` where there is no more than
/// half of one; registers without columns are left out. By turns: all parts take some steps before the next ones come, so that a
/// panel comes from memory once and while all of them compute.
///
/// `$dot` adds the products of some steps (`narrow_steps`), of which each takes `$step` bytes of a row, and `$spread` those of four steps
/// that do not lie as in a packed matrix.
macro_rules! narrow {
    ($name:ident: $dot:ident $(and $spread:ident)?, $features:literal, $step:literal, $most:literal by $width:literal: $($part:literal)*,
        $of_half:literal of half: $($half:literal)*, $zero:expr,
        $load:ident, $store:ident) => {
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<const R: usize>(call: &TileCall<'_>) {
            /// `C` registers of columns, from column `first` on, asking for a share of what is ahead.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn columns<const R: usize, const C: usize>(call: &TileCall<'_>, first: usize, share: Share) {
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
                        let mut done = 0;
                        if call.panel_stride == STEP_BYTES {
                            done = call.steps - call.steps % UNROLLED;
                            let lines = done / UNROLLED * share.lines;
                            let mut ahead = call.panel.wrapping_add(call.ahead + share.number * lines * LINE);
                            for _ in 0..done / UNROLLED {
                                if share.lines > 0 {
                                    share.fetch(ahead);
                                    ahead = ahead.wrapping_add(share.lines * LINE);
                                }
                                $dot::<R, C, UNROLLED>(a, stride, panel, &mut acc);
                                a = a.add(UNROLLED * $step);
                                panel = panel.wrapping_add(UNROLLED * STEP_BYTES);
                            }
                        }
                        $(
                            while call.steps - done >= UNROLLED {
                                if share.lines > 0 && share.number == 0 {
                                    fetch(panel.wrapping_add(call.ahead), (UNROLLED * call.panel_stride).div_ceil(LINE));
                                }
                                $spread::<R, C>(a, stride, (panel, call.panel_stride), &mut acc);
                                a = a.add(UNROLLED * $step);
                                panel = panel.wrapping_add(UNROLLED * call.panel_stride);
                                done += UNROLLED;
                            }
                        )?
                        for _ in done..call.steps {
                            if share.lines > 0 && share.number == 0 {
                                fetch(panel.wrapping_add(call.ahead), STEP_BYTES / LINE);
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
            /// A part's width of a panel, or what is there of it, by the first `rows` rows.
            #[target_feature(enable = $features)]
            unsafe fn part(call: &TileCall<'_>, rows: usize, first: usize, share: Share) {
                let registers = call.columns.saturating_sub(first).div_ceil(COLUMNS);
                // SAFETY: see above.
                unsafe {
                    match (rows, registers) {
                        (_, 0) => {}
                        $(($half, 1) => columns::<$half, 1>(call, first, share),)*
                        $(($half, 2) => columns::<$half, 2>(call, first, share),)*
                        $(($part, 3) if $width == 4 => columns::<$part, 3>(call, first, share),)*
                        $(($part, _) => columns::<$part, $width>(call, first, share),)*
                        _ => unreachable!("more rows than the registers have"),
                    }
                }
            }
            /// All rows, `rows` of them, in parts. Of few rows a turn is what is fetched ahead, so that the next one is in the first-level
            /// cache when the first part reads it.
            #[target_feature(enable = $features)]
            unsafe fn parts(call: &TileCall<'_>, rows: usize) {
                let parts = rows.div_ceil(if call.is_half() { $of_half } else { $most });
                let by_halves = $width == 2 && !call.is_half();
                let most = if call.many_rows { MANY_STEPS } else { TURN_BYTES / call.panel_stride.min(STEP_BYTES) };
                // What is added up in 16 bits must not be cut elsewhere.
                let most = most - most % UNROLLED;
                // A distance that was chosen shorter is left: what is asked for too early is gone again.
                let few_of_base = !call.many_rows && call.ahead >= AHEAD;
                let ahead = if few_of_base { call.ahead.max(TURN_BYTES) } else { call.ahead };
                // Spread over the parts, what comes next costs none of them anything.
                let lines = call.coming.len().div_ceil(LINE).div_ceil(parts * call.steps.div_ceil(most).max(1));
                let mut coming = call.coming.chunks(lines.max(1) * LINE);
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
                            if let Some(share) = coming.next() {
                                // Into the second-level cache.
                                fetch_into::<_MM_HINT_T1>(share.as_ptr(), share.len().div_ceil(LINE));
                            }
                            let [low, high] = match (by_halves, call.many_rows) {
                                (true, false) => [2 * number, 2 * number + 1].map(|half| Share::of(half, 2 * parts)),
                                (true, true) => [Share::of(number, 1), Share::of(1, 1)],
                                (false, many) => [Share::of(number, if many { 1 } else { parts }); 2],
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
                let all = Share::of(0, 1);
                match call.columns.div_ceil(COLUMNS) {
                    1 if R <= WHOLE_ROWS => columns::<R, 1>(call, 0, all),
                    2 if R <= WHOLE_ROWS => columns::<R, 2>(call, 0, all),
                    3 if R <= WHOLE_ROWS => columns::<R, 3>(call, 0, all),
                    _ if R <= WHOLE_ROWS => columns::<R, 4>(call, 0, all),
                    _ => parts(call, R),
                }
            }
        }
    };
}

/// What one part asks for of what a turn has ahead of it: while each computes, memory brings its share.
#[derive(Clone, Copy)]
struct Share {
    /// Which of the shares.
    number: usize,
    /// Lines in each round of the innermost loop: 2, 4, or all 8; 0 where other parts ask for all of it.
    lines: usize,
}

impl Share {
    /// Share `number`, from 0 on, of `of`.
    fn of(number: usize, of: usize) -> Self {
        const ALL: usize = UNROLLED * STEP_BYTES / LINE;
        let lines = match of {
            1 => ALL,
            2..4 => ALL / 2,
            _ => ALL / 4,
        };
        Self { number, lines: if number * lines < ALL { lines } else { 0 } }
    }

    /// Asks for the lines of a round.
    #[inline(always)]
    fn fetch(self, from: *const u8) {
        fetch(from, 2);
        if self.lines > 2 {
            fetch(from.wrapping_add(2 * LINE), 2);
        }
        if self.lines > 4 {
            fetch(from.wrapping_add(4 * LINE), 4);
        }
    }
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
    int8_avx2: int8_steps and four_spread_int8_steps,
    "avx2",
    4,
    2 by 4: 1 2,
    4 of half: 1 2 3 4,
    _mm256_setzero_si256(),
    _mm256_loadu_si256,
    _mm256_storeu_si256
);
