//! What follows a panel's product while it is hot: gain, expand, bias, activation, residual.

use super::LinearCall;
use crate::element::{Element, load_part, store_part};
use crate::epilogue::activate;
use crate::lora::{LoraSegment, LoraSpan};
use crate::packed_matrix::PANEL;
use crate::target::{LANES, Target};
use crate::tile::{SumsTile, TileCall, TileKernel};

/// One panel of the layer: its columns and what the base model adds to them.
pub(super) struct Panel<'a, 'c, E> {
    call: &'c LinearCall<'a, E>,
    /// Its first column.
    first: usize,
    /// Its columns that the layer has.
    width: usize,
    /// The base's bias, zeros where there is none.
    bias: [f32; PANEL],
    /// For int8: scales and scales times sums.
    scales: Option<(&'c [f32], &'c [f32])>,
}

/// What an adapter changes in a panel.
pub(super) struct Effect {
    gain: Option<[f32; PANEL]>,
    bias: [f32; PANEL],
    expands: Vec<Expand>,
    /// Copies of pieces of `B` that do not fill the panel, zeros around them.
    pieces: Vec<f32>,
    /// `B h` of the rows at hand, `[rows, PANEL]` f32, and place for a second span's.
    sums: SumsTile,
    spare: SumsTile,
}

/// `B`'s columns of a panel.
struct Expand {
    /// The span's place in a row of `A x`.
    hidden: usize,
    rank: usize,
    /// In `B`, with its row length; or in `pieces`.
    b: Source,
}

enum Source {
    Span(*const f32, usize),
    Piece(usize),
}

/// The sums of some rows and where their results go.
pub(super) struct Rows<O> {
    /// `[rows, PANEL]`: f32, or i32 for int8.
    pub sums: *const u32,
    /// How many.
    pub count: usize,
    /// The first, counted from the call's first row.
    pub first: usize,
    /// For int8, by row: scale and scale times the byte of zero.
    pub scales: *const [f32; 2],
    /// `A x` of these rows, and values from row to row.
    pub hidden: (*const f32, usize),
    /// Where the first row's first column of the layer lies, and values from row to row.
    pub out: (*mut O, usize),
}

impl<'a, 'c, E: Element> Panel<'a, 'c, E> {
    pub fn new(call: &'c LinearCall<'a, E>, index: usize) -> Self {
        let first = index * PANEL;
        let width = PANEL.min(call.weight.outputs() - first);
        let mut bias = [0f32; PANEL];
        if let Some(values) = call.bias {
            bias[..width].copy_from_slice(&values[first..first + width]);
        }
        let int8 = call.weight.format() == crate::WeightFormat::Int8;
        Self { call, first, width, bias, scales: int8.then(|| call.weight.panel_scales(index)) }
    }

    /// What the rows' adapter changes here, written over `effect`.
    pub fn effect_of(&self, segment: &LoraSegment<'_>, effect: &mut Effect) {
        effect.gain = None;
        effect.bias = self.bias;
        effect.expands.clear();
        effect.pieces.clear();
        let mut hidden = 0;
        for span in &segment.spans {
            self.add_span(span, hidden, effect);
            hidden += span.rank;
        }
    }

    fn add_span(&self, span: &LoraSpan<'_>, hidden: usize, effect: &mut Effect) {
        let columns = span.columns.start.max(self.first)..span.columns.end.min(self.first + self.width);
        if columns.is_empty() {
            return;
        }
        let here = columns.start - self.first..columns.end - self.first;
        let there = columns.start - span.columns.start..columns.end - span.columns.start;
        if let Some(gain) = span.gain {
            let values = effect.gain.get_or_insert([1.0; PANEL]);
            values[here.clone()].copy_from_slice(&gain[there.clone()]);
        }
        if let Some(bias) = span.bias {
            effect.bias[here.clone()].copy_from_slice(&bias[there.clone()]);
        }
        if span.rank == 0 {
            return;
        }
        let stride = span.columns.len();
        let b = if here.len() == PANEL {
            Source::Span(span.b[there.start..].as_ptr(), stride)
        } else {
            let at = effect.pieces.len();
            effect.pieces.resize(at + span.rank * PANEL, 0.0);
            for (j, piece) in effect.pieces[at..].chunks_exact_mut(PANEL).enumerate() {
                piece[here.clone()].copy_from_slice(&span.b[j * stride..][there.clone()]);
            }
            Source::Piece(at)
        };
        effect.expands.push(Expand { hidden, rank: span.rank, b });
    }

    /// Finishes some rows of the panel.
    ///
    /// # Safety
    /// Sums, scales and `A x` lie where `rows` says, and there is room for the results.
    #[inline(always)]
    pub unsafe fn finish<I: Target, O: Element>(&self, rows: &Rows<O>, effect: Option<&Effect>) {
        let bias = effect.map_or(&self.bias, |e| &e.bias);
        let gain = effect.and_then(|e| e.gain.as_ref());
        // Results that are rounded to 8 bits, here or when they are quantised, need no finer activation.
        let coarse = E::COARSE || self.scales.is_some();
        let outputs = self.call.weight.outputs();
        // SAFETY: as the caller promises; columns are below the panel's width, or in arrays of a whole panel.
        unsafe {
            for r in 0..rows.count {
                let mut v = self.sums::<I, O>(rows, r);
                if let Some(gain) = gain {
                    for (c, v) in v.iter_mut().enumerate() {
                        *v = I::mul(*v, I::load(gain.as_ptr().add(c * LANES)));
                    }
                }
                if let Some(effect) = effect.filter(|effect| !effect.expands.is_empty()) {
                    let sums = effect.sums.0[r * PANEL..].as_ptr().cast::<f32>();
                    for (c, v) in v.iter_mut().enumerate() {
                        *v = I::add(*v, I::load(sums.add(c * LANES)));
                    }
                }
                for (c, v) in v.iter_mut().enumerate() {
                    *v = I::add(*v, I::load(bias.as_ptr().add(c * LANES)));
                    *v = activate::<I>(self.call.activation, coarse, *v);
                }
                let out = rows.out.0.add(r * rows.out.1 + self.first);
                let residual = self
                    .call
                    .residual
                    .map(|values| values[(rows.first + r) * outputs + self.first..][..self.width].as_ptr());
                for (c, v) in v.into_iter().enumerate() {
                    let column = c * LANES;
                    if column + LANES <= self.width {
                        let v = match residual {
                            Some(residual) => I::add(v, E::load::<I>(residual.add(column))),
                            None => v,
                        };
                        O::store::<I>(v, out.add(column));
                    } else if column < self.width {
                        let rest = self.width - column;
                        let v = match residual {
                            Some(residual) => I::add(v, load_part::<I, E>(residual.add(column), rest)),
                            None => v,
                        };
                        store_part::<I, O>(v, out.add(column), rest);
                    }
                }
            }
        }
    }

    /// The sums of row `r` as f32.
    #[inline(always)]
    unsafe fn sums<I: Target, O>(&self, rows: &Rows<O>, r: usize) -> [I::Lanes; 2] {
        // SAFETY: as the caller of `finish` promises.
        unsafe {
            let sums = rows.sums.add(r * PANEL);
            let Some((scales, totals)) = self.scales else {
                return [I::load(sums.cast()), I::load(sums.add(LANES).cast())];
            };
            let [scale, zero] = *rows.scales.add(r);
            let (scale, zero) = (I::splat(scale), I::splat(-zero));
            let mut v = [I::splat(0.0); 2];
            for (c, v) in v.iter_mut().enumerate() {
                let sum = I::load_i32(sums.add(c * LANES).cast());
                let weights = I::mul(scale, I::load(scales.as_ptr().add(c * LANES)));
                let offset = I::mul(zero, I::load(totals.as_ptr().add(c * LANES)));
                *v = I::fma(sum, weights, offset);
            }
            v
        }
    }
}

impl Effect {
    pub fn none() -> Self {
        let (sums, spare) = (SumsTile::default(), SumsTile::default());
        Self { gain: None, bias: [0.0; PANEL], expands: vec![], pieces: vec![], sums, spare }
    }

    /// Computes `B h` for `count` rows of `A x`, `stride` values apart.
    ///
    /// # Safety
    /// The rows lie there, at most [`MAX_ROWS`](crate::tile::MAX_ROWS), with the ranks of the segment that the effect is
    /// of; the kernel is one of the machine's for f32.
    #[inline(always)]
    pub unsafe fn expand<I: Target>(
        &mut self,
        kernel: &TileKernel,
        (hidden, stride): (*const f32, usize),
        count: usize,
    ) {
        for (i, expand) in self.expands.iter().enumerate() {
            let (b, b_stride) = match expand.b {
                Source::Span(b, stride) => (b, stride),
                Source::Piece(at) => (self.pieces[at..].as_ptr(), PANEL),
            };
            let sums = if i == 0 { &mut self.sums } else { &mut self.spare };
            let mut at = 0;
            while at < count {
                let rows = kernel.rows_of(count, at);
                let call = TileCall {
                    a: hidden.wrapping_add(at * stride + expand.hidden).cast(),
                    stride: stride * size_of::<f32>(),
                    panel: b.cast(),
                    panel_stride: b_stride * size_of::<f32>(),
                    steps: expand.rank,
                    out: sums.0[at * PANEL..].as_mut_ptr(),
                };
                // SAFETY: as the caller promises; `B` has `rank` rows with a panel's columns from here on.
                unsafe { kernel.function(rows)(&call) };
                at += rows;
            }
            if i > 0 {
                for c in (0..count * PANEL).step_by(LANES) {
                    // SAFETY: both tiles have place for `count` rows.
                    unsafe {
                        let to = self.sums.0[c..].as_mut_ptr().cast::<f32>();
                        let more = self.spare.0[c..].as_ptr().cast::<f32>();
                        I::store(I::add(I::load(to), I::load(more)), to);
                    }
                }
            }
        }
    }
}
