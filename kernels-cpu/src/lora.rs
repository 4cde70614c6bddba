//! LoRA inside a linear layer: `y = g (W x) + B (A x)` for the rows of one adapter (arXiv 2106.09685, 2402.09353).

use std::ops::Range;

use crate::epilogue::scale;
use crate::isa::Target;
use crate::lanes::{LANES, at, at_mut, dot, fma};

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
    /// What the adapter brings, by columns, not overlapping.
    pub spans: Vec<LoraSpan<'a>>,
}

/// Adds one span's part to one row: gain, shrink, expand. `hidden` is scratch of at least `rank` values.
#[inline(always)]
pub(crate) fn apply_span<I: Target>(span: &LoraSpan<'_>, x: &[f32], row: &mut [f32], hidden: &mut [f32]) {
    let out = &mut row[span.columns.clone()];
    if let Some(gain) = span.gain {
        scale(out, gain);
    }
    if span.rank == 0 {
        return;
    }
    let hidden = &mut hidden[..span.rank];
    for (h, a) in hidden.iter_mut().zip(span.a.chunks_exact(x.len().max(1))) {
        *h = dot::<I>(x, a);
    }
    expand::<I>(hidden, span.b, out);
}

/// `out += h B`, sixteen columns at a time, so that `out` is read and written once.
#[inline(always)]
fn expand<I: Target>(hidden: &[f32], b: &[f32], out: &mut [f32]) {
    let width = out.len();
    let whole = width - width % LANES;
    for column in (0..whole).step_by(LANES) {
        let mut acc = I::load(at(out, column));
        for (j, h) in hidden.iter().enumerate() {
            acc = I::fma_lanes(I::splat(*h), I::load(at(b, j * width + column)), acc);
        }
        I::store(acc, at_mut(out, column));
    }
    for c in whole..width {
        for (j, h) in hidden.iter().enumerate() {
            out[c] = fma::<I>(*h, b[j * width + c], out[c]);
        }
    }
}
