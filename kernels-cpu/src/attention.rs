//! Bidirectional attention over packed rows: every sequence sees itself and nothing else, nothing is padded.
//!
//! Keys and values of a head are laid out as panels, so that scores and context are the same products as a linear layer's;
//! between them stands an online softmax over blocks of keys (arXiv 1805.02867, 2205.14135).

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod laws;
mod panels;

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use crate::aligned::AlignedBuffer;
use crate::element::{Element, store_part};
use crate::isa::Isa;
use crate::math::exp2_of_negative;
use crate::packed_matrix::{PANEL, STEP_BYTES, WeightFormat};
use crate::shared_out::SharedOut;
use crate::target::{LANES, Target, dispatch};
use crate::team::{self, PARTS};
use crate::tile::{AHEAD, MAX_ROWS, Scaling, SumsTile, TileCall, TileKernel};
use panels::{HeadPanels, QueryRows};

/// Keys of one block: with their values they stay in the first two levels of the cache. A multiple of [`PANEL`].
const KEY_BLOCK: usize = 512;

/// Heads and their width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Number of heads.
    pub heads: usize,
    /// Width of one head.
    pub width: usize,
}

/// One attention over packed rows.
#[derive(Clone, Copy, Debug)]
pub struct AttentionCall<'a, E> {
    /// Queries, row `t` at `t * stride`, heads side by side.
    pub q: &'a [E],
    /// Keys, likewise.
    pub k: &'a [E],
    /// Values, likewise.
    pub v: &'a [E],
    /// Distance between rows of q, k and v, in elements.
    pub stride: usize,
    /// Starts of the sequences and the end of the last, `[B + 1]`.
    pub cu_seqlens: &'a [u32],
    /// Heads.
    pub heads: HeadShape,
    /// Factor on the scores, `1 / sqrt(width)`; positive.
    pub scale: f32,
}

/// Writes the context, `[T, heads * width]`, on the threads of the team.
///
/// # Panics
/// When a slice is shorter than the sequences say.
pub fn attention_packed<E: Element>(isa: Isa, call: AttentionCall<'_, E>, out: &mut [E]) {
    isa.require();
    let HeadShape { heads, width } = call.heads;
    let bounds = call.cu_seqlens;
    assert!(bounds.first() == Some(&0) && bounds.is_sorted(), "cu_seqlens does not ascend from 0");
    let (sequences, total) = (bounds.len() - 1, bounds[bounds.len() - 1] as usize);
    assert_eq!(out.len(), total * heads * width, "out is not [{total}, {}]", heads * width);
    for (name, values) in [("q", call.q), ("k", call.k), ("v", call.v)] {
        let needed = if total == 0 { 0 } else { (total - 1) * call.stride + heads * width };
        assert!(values.len() >= needed, "{name} has {} values, {needed} are needed", values.len());
    }
    if out.is_empty() {
        return;
    }
    let whole_pairs = width.is_multiple_of(2);
    let format = if whole_pairs && isa.has_bf16_products() { E::FORMAT } else { WeightFormat::F32 };
    let job = Job { call, kernel: TileKernel::choose(isa, format), format, out: SharedOut(out.as_mut_ptr()) };
    // Sequences first; heads where there are too few of them.
    let threads = team::threads();
    let parts = if threads == 1 { 1 } else { (threads * PARTS).div_ceil(sequences).min(heads) };
    team::for_each(sequences * parts, |task| {
        let (sequence, part) = (task / parts, task % parts);
        let rows = bounds[sequence] as usize..bounds[sequence + 1] as usize;
        let mut scratch = SCRATCH.take().unwrap_or_default();
        for head in heads * part / parts..heads * (part + 1) / parts {
            one_head(isa, &job, Head { first: rows.start, count: rows.len(), head }, &mut scratch);
        }
        SCRATCH.set(Some(scratch));
    });
}

/// A call with what it is computed with.
struct Job<'a, E> {
    call: AttentionCall<'a, E>,
    kernel: TileKernel,
    /// How queries, keys, weights and values lie for the products.
    format: WeightFormat,
    out: SharedOut<E>,
}

/// One head of one sequence.
#[derive(Clone, Copy)]
struct Head {
    /// The sequence's first row.
    first: usize,
    /// Its rows.
    count: usize,
    head: usize,
}

/// Memory of a thread, kept from call to call.
#[derive(Default)]
struct Scratch {
    panels: HeadPanels,
    queries: QueryRows,
    weights: QueryRows,
    scores: AlignedBuffer,
    context: AlignedBuffer,
    sums: SumsTile,
}

thread_local! {
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

dispatch! {
    fn one_head<E: Element>(job: &Job<'_, E>, head: Head, scratch: &mut Scratch) = one_head_body
}

// No closure below: a closure would be compiled for the baseline.

#[inline(always)]
fn one_head_body<I: Target, E: Element>(job: &Job<'_, E>, head: Head, scratch: &mut Scratch) {
    let Job { call, kernel, format, .. } = job;
    let width = call.heads.width;
    let blocks = head.count.div_ceil(KEY_BLOCK);
    let scale = call.scale * std::f32::consts::LOG2_E;
    let Scratch { panels, queries, weights, scores, context, sums } = scratch;
    if blocks == 1 {
        panels.fill::<I, E>(job, head, 0..head.count);
    }
    let _tiles = kernel.begin();
    let mut at = 0;
    while at < head.count {
        let rows = kernel.rows_of(head.count, at);
        let queries = queries.queries::<E>(job, head, at..at + rows);
        let mut state = RowStates { highest: [f32::NEG_INFINITY; MAX_ROWS], total: [0.0; MAX_ROWS] };
        let context =
            context.at_least::<f32>(if blocks > 1 { width.div_ceil(PANEL) * MAX_ROWS * PANEL } else { 0 });
        for block in 0..blocks {
            let keys = block * KEY_BLOCK..head.count.min((block + 1) * KEY_BLOCK);
            let count = keys.len();
            if blocks > 1 {
                panels.fill::<I, E>(job, head, keys);
            }
            let key_panels = count.div_ceil(PANEL);
            let scores = scores.at_least::<u32>(key_panels * MAX_ROWS * PANEL);
            for panel in 0..key_panels {
                let tile = TileCall {
                    a: queries.data,
                    stride: queries.stride,
                    panel: panels.keys(panel),
                    panel_stride: STEP_BYTES,
                    steps: queries.steps,
                    columns: PANEL.min(count - panel * PANEL),
                    ahead: AHEAD,
                    many_rows: true,
                    coming: &[],
                    accumulate: false,
                    scaling: Scaling::None,
                    next: None,
                    out: scores[panel * MAX_ROWS * PANEL..].as_mut_ptr(),
                };
                // SAFETY: the kernel is one of the machine's; keys have been laid out with these steps, queries too or lie so,
                // and a panel's scores have room for the most rows of any kernel.
                unsafe { kernel.function(rows)(&tile) };
            }
            weights.reserve(*format, kernel, count);
            let kept = match format {
                WeightFormat::Bf16 => softmax::<I, bf16>((scores, count), rows, scale, &mut state, weights),
                _ => softmax::<I, f32>((scores, count), rows, scale, &mut state, weights),
            };
            for panel in 0..width.div_ceil(PANEL) {
                let tile = TileCall {
                    a: weights.data(),
                    stride: weights.stride,
                    panel: panels.values(panel),
                    panel_stride: STEP_BYTES,
                    steps: weights.steps,
                    columns: PANEL,
                    ahead: AHEAD,
                    many_rows: true,
                    coming: &[],
                    accumulate: false,
                    scaling: Scaling::None,
                    next: None,
                    out: sums.as_mut_ptr(),
                };
                // SAFETY: as above, with weights for rows and values for weights.
                unsafe { kernel.function(rows)(&tile) };
                if blocks == 1 {
                    write_context::<I, E>(job, head, at..at + rows, (panel, sums.row(0)), &state);
                } else {
                    let context = &mut context[panel * MAX_ROWS * PANEL..][..MAX_ROWS * PANEL];
                    add_context::<I>(sums, rows, (block > 0).then_some(&kept), context);
                }
            }
        }
        if blocks > 1 {
            for panel in 0..width.div_ceil(PANEL) {
                let context = context[panel * MAX_ROWS * PANEL..].as_ptr().cast();
                write_context::<I, E>(job, head, at..at + rows, (panel, context), &state);
            }
        }
        at += rows;
    }
}

/// The online softmax's state by row: the highest score so far and the sum of weights relative to it.
struct RowStates {
    highest: [f32; MAX_ROWS],
    total: [f32; MAX_ROWS],
}

/// Turns scores into weights `2^(scale (s - highest))`, next to nothing behind the last key, and brings the state up to date. Gives
/// by row the factor that what was summed before is worth now.
#[inline(always)]
fn softmax<I: Target, W: Element>(
    (scores, keys): (&mut [u32], usize),
    rows: usize,
    scale: f32,
    state: &mut RowStates,
    weights: &mut QueryRows,
) -> [f32; MAX_ROWS] {
    let mut kept = [1.0; MAX_ROWS];
    let to = (weights.row_mut::<W>(0), weights.stride / size_of::<W>());
    let mut row = 0;
    while row < rows {
        // Several rows at once: one row's steps wait for each other.
        if row + 4 <= rows {
            softmax_rows::<I, W, 4>((scores, keys), row, scale, state, &mut kept, to);
            row += 4;
        } else {
            softmax_rows::<I, W, 1>((scores, keys), row, scale, state, &mut kept, to);
            row += 1;
        }
    }
    kept
}

/// [`softmax`] for the rows `first .. first + R`; a row's order of sums does not depend on `R`. `to`: the weights' first row,
/// and values from row to row.
#[inline(always)]
fn softmax_rows<I: Target, W: Element, const R: usize>(
    (scores, keys): (&mut [u32], usize),
    first: usize,
    scale: f32,
    state: &mut RowStates,
    kept: &mut [f32; MAX_ROWS],
    (to, stride): (*mut W, usize),
) {
    // Sixteens of keys, in use and as the weights' rows have place for.
    let (used, whole) = (keys.div_ceil(LANES), 2 * keys.div_ceil(PANEL));
    assert!(used > 0 && first + R <= MAX_ROWS && scores.len() >= whole / 2 * MAX_ROWS * PANEL);
    let place =
        |row: usize, sixteen: usize| ((sixteen / 2) * MAX_ROWS + first + row) * PANEL + (sixteen % 2) * LANES;
    let mut highest = [I::splat(f32::NEG_INFINITY); R];
    for (r, highest) in highest.iter_mut().enumerate() {
        // What lies behind the last key weighs nothing.
        for score in &mut scores[place(r, used - 1)..][keys - (used - 1) * LANES..LANES] {
            *score = f32::NEG_INFINITY.to_bits();
        }
        for sixteen in 0..used {
            // SAFETY: below the scores' length, which was compared.
            *highest = I::max(*highest, unsafe { I::load(scores.as_ptr().add(place(r, sixteen)).cast()) });
        }
    }
    let (mut now_highest, mut totals) = ([I::splat(0.0); R], [I::splat(0.0); R]);
    for r in 0..R {
        let before = state.highest[first + r];
        let now = before.max(I::highest(highest[r]));
        now_highest[r] = I::splat(now);
        if before > f32::NEG_INFINITY {
            kept[first + r] = ((before - now) * scale).exp2();
        }
        state.highest[first + r] = now;
    }
    let factor = I::splat(scale);
    for sixteen in 0..used {
        for r in 0..R {
            // SAFETY: as above; a row of weights has place for whole panels.
            unsafe {
                let score = I::load(scores.as_ptr().add(place(r, sixteen)).cast());
                let weight = exp2_of_negative::<I>(I::mul(I::sub(score, now_highest[r]), factor), W::COARSE);
                totals[r] = I::add(totals[r], weight);
                W::store::<I>(weight, to.add((first + r) * stride + sixteen * LANES));
            }
        }
    }
    for r in 0..R {
        if used < whole {
            // SAFETY: as above.
            unsafe { W::store::<I>(I::splat(0.0), to.add((first + r) * stride + used * LANES)) };
        }
        state.total[first + r] = state.total[first + r] * kept[first + r] + I::sum(totals[r]);
    }
}

/// `context = kept * context + sums`; without `kept` it begins here.
#[inline(always)]
fn add_context<I: Target>(sums: &SumsTile, rows: usize, kept: Option<&[f32; MAX_ROWS]>, context: &mut [f32]) {
    for (row, to) in context.chunks_exact_mut(PANEL).take(rows).enumerate() {
        for column in [0, LANES] {
            // SAFETY: a row has a panel's columns in both.
            unsafe {
                let to = to.as_mut_ptr().add(column);
                let sum = I::load(sums.row(row).add(column).cast());
                let v = match kept {
                    Some(kept) => I::fma(I::splat(kept[row]), I::load(to), sum),
                    None => sum,
                };
                I::store(v, to);
            }
        }
    }
}

/// Writes what lies at `context`, `[rows, PANEL]` f32, over the rows' totals, as panel `panel` of the head's context of its
/// rows `rows`.
#[inline(always)]
fn write_context<I: Target, E: Element>(
    job: &Job<'_, E>,
    head: Head,
    rows: Range<usize>,
    (panel, context): (usize, *const u32),
    state: &RowStates,
) {
    let HeadShape { heads, width } = job.call.heads;
    let first = (head.first + rows.start) * heads * width + head.head * width;
    for row in 0..rows.len() {
        let inverse = I::splat(1.0 / state.total[row]);
        for column in (panel * PANEL..width.min((panel + 1) * PANEL)).step_by(LANES) {
            // SAFETY: as many sums lie there; the result has `width` columns for the head in each row.
            unsafe {
                let sums = I::load(context.add(row * PANEL + column % PANEL).cast());
                let v = I::mul(sums, inverse);
                let to = job.out.0.add(first + row * heads * width + column);
                if column + LANES <= width {
                    E::store::<I>(v, to);
                } else {
                    store_part::<I, E>(v, to, width - column);
                }
            }
        }
    }
}
