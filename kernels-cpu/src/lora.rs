//! LoRA inside a linear layer: `y = g (W x) + B (A x)` for the rows of one adapter (arXiv 2106.09685, 2402.09353).
//!
//! The shrink `h = A x` runs before the product, over a few rows and ranks at a time; the expand `B h` is added to the
//! product's sums while they are hot. Beside a base in f32 both read the adapter's values where they lie (here, and in
//! `linear/panel.rs`); beside one in bf16 or int8 they are products like the base's, of a
//! [`PackedLora`](crate::PackedLora) (`linear/shrink.rs`).

use std::ops::Range;

use crate::element::{Element, load_part};
use crate::packed_lora::PackedLora;
use crate::target::{LANES, Target};

/// What an adapter brings to some columns of a fused linear layer.
#[derive(Clone, Debug)]
pub struct LoraSpan<'a> {
    /// The columns of the output it changes.
    pub columns: Range<usize>,
    /// Rank; 0 without low-rank part.
    pub rank: usize,
    /// `A`, `[rank, inputs]`.
    pub a: &'a [f32],
    /// `B` transposed, `[rank, columns]`, scale and gain folded in.
    pub b: &'a [f32],
    /// Gain on `W x`, `[columns]`.
    pub gain: Option<&'a [f32]>,
    /// Bias instead of the base's, `[columns]`.
    pub bias: Option<&'a [f32]>,
}

impl LoraSpan<'_> {
    /// Refuses lengths that do not fit a layer of these widths.
    pub(crate) fn check(&self, inputs: usize, outputs: usize) {
        let width = self.columns.len();
        assert!(self.columns.end <= outputs, "a span ends at {}, the layer at {outputs}", self.columns.end);
        assert_eq!(self.a.len(), self.rank * inputs, "A is not [{}, {inputs}]", self.rank);
        assert_eq!(self.b.len(), self.rank * width, "B is not [{}, {width}]", self.rank);
        let fits = |vector: Option<&[f32]>| vector.is_none_or(|v| v.len() == width);
        assert!(fits(self.gain) && fits(self.bias), "gain or bias is not [{width}]");
    }
}

/// Consecutive rows with the same adapter; no spans for rows without one.
#[derive(Clone, Debug)]
pub struct LoraSegment<'a> {
    /// The rows.
    pub rows: Range<usize>,
    /// What the adapter brings, by columns, in order and not overlapping.
    pub spans: Vec<LoraSpan<'a>>,
    /// The same spans packed for the base's format. Used where all segments of a call with a low-rank part have it.
    pub packed: Option<&'a PackedLora>,
}

impl LoraSegment<'_> {
    /// The ranks of all spans together: values of `A x` a row.
    pub(crate) fn ranks(&self) -> usize {
        self.spans.iter().map(|span| span.rank).sum()
    }
}

/// Parts of `rows` that `segments` (in order, not overlapping) cover, each with its segment.
pub(crate) fn segments_in<'s, 'a>(
    segments: &'s [LoraSegment<'a>],
    rows: Range<usize>,
) -> impl Iterator<Item = (Range<usize>, &'s LoraSegment<'a>)> {
    let first = segments.partition_point(|s| s.rows.end <= rows.start);
    segments[first..].iter().take_while(move |s| s.rows.start < rows.end).filter_map(move |s| {
        let part = s.rows.start.max(rows.start)..s.rows.end.min(rows.end);
        (!part.is_empty()).then_some((part, s))
    })
}

/// `h = A x` for the rows `rows` of `x`, `[.., inputs]`: spans side by side in `hidden`, `[rows, stride]`, whose first row is
/// the first of `rows`.
#[inline(always)]
pub(crate) fn shrink<I: Target, E: Element>(
    (x, inputs): (&[E], usize),
    rows: Range<usize>,
    segments: &[LoraSegment<'_>],
    hidden: &mut [f32],
    stride: usize,
) {
    for (part, segment) in segments_in(segments, rows.clone()) {
        let x = &x[part.start * inputs..part.end * inputs];
        let hidden = &mut hidden[(part.start - rows.start) * stride..][..part.len() * stride];
        let mut at = 0;
        for span in &segment.spans {
            products::<I, E>((x, inputs), span, &mut hidden[at..], stride);
            at += span.rank;
        }
    }
}

/// All products of rows with one span's rows of `A`.
#[inline(always)]
fn products<I: Target, E: Element>(
    (x, inputs): (&[E], usize),
    span: &LoraSpan<'_>,
    hidden: &mut [f32],
    stride: usize,
) {
    let rows = x.len() / inputs;
    if span.rank == 0 || rows == 0 {
        return;
    }
    assert!(hidden.len() >= (rows - 1) * stride + span.rank && span.a.len() == span.rank * inputs);
    let (x, a, out) = (x.as_ptr(), span.a.as_ptr(), hidden.as_mut_ptr());
    let (most, ranks) = if I::WIDE { (4, 4) } else { (2, 2) };
    let mut row = 0;
    while row < rows {
        let block = if row + most <= rows { most } else { 1 };
        let mut rank = 0;
        while rank < span.rank {
            let width = if rank + ranks <= span.rank { ranks } else { 1 };
            // SAFETY: rows and ranks are below their numbers, which the lengths were checked against.
            unsafe {
                let (x, a) = (x.add(row * inputs), a.add(rank * inputs));
                let out = out.add(row * stride + rank);
                match (block, width) {
                    (4, 4) => dots::<I, E, 4, 4>(x, a, inputs, out, stride),
                    (4, _) => dots::<I, E, 4, 1>(x, a, inputs, out, stride),
                    (2, 2) => dots::<I, E, 2, 2>(x, a, inputs, out, stride),
                    (2, _) => dots::<I, E, 2, 1>(x, a, inputs, out, stride),
                    (_, 4) => dots::<I, E, 1, 4>(x, a, inputs, out, stride),
                    (_, 2) => dots::<I, E, 1, 2>(x, a, inputs, out, stride),
                    _ => dots::<I, E, 1, 1>(x, a, inputs, out, stride),
                }
            }
            rank += width;
        }
        row += block;
    }
}

/// `R` rows by `C` ranks, lanes along the inputs: the order of a sum depends on neither.
///
/// # Safety
/// `R` rows of `inputs` values lie at `x`, `C` at `a`; `out` has room for `C` values in each of `R` rows.
#[inline(always)]
unsafe fn dots<I: Target, E: Element, const R: usize, const C: usize>(
    x: *const E,
    a: *const f32,
    inputs: usize,
    out: *mut f32,
    stride: usize,
) {
    let mut acc = [[I::splat(0.0); C]; R];
    let whole = inputs - inputs % LANES;
    // SAFETY: as the caller promises.
    unsafe {
        for k in (0..whole).step_by(LANES) {
            let mut factors = [I::splat(0.0); C];
            for (c, factor) in factors.iter_mut().enumerate() {
                *factor = I::load(a.add(c * inputs + k));
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = E::load::<I>(x.add(r * inputs + k));
                for (acc, factor) in acc.iter_mut().zip(factors) {
                    *acc = I::fma(x, factor, *acc);
                }
            }
        }
        if whole < inputs {
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = load_part::<I, E>(x.add(r * inputs + whole), inputs - whole);
                for (c, acc) in acc.iter_mut().enumerate() {
                    let factor = load_part::<I, f32>(a.add(c * inputs + whole), inputs - whole);
                    *acc = I::fma(x, factor, *acc);
                }
            }
        }
        for (r, acc) in acc.into_iter().enumerate() {
            for (c, acc) in acc.into_iter().enumerate() {
                *out.add(r * stride + c) = I::sum(acc);
            }
        }
    }
}
