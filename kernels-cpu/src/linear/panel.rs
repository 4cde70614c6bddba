//! A panel of a layer, and what its rows' adapters change in it: gain, bias, and `B h` beside the panel's product.

use super::LinearCall;
use super::shrink::Hidden;
use super::sums::{PanelScales, Rows};
use crate::element::Element;
use crate::lora::{LoraSegment, LoraSpan, segments_in};
use crate::packed_lora::{ExpandPanel, LastExpand, PackedLora};
use crate::packed_matrix::{PANEL, STEP_BYTES};
use crate::tile::{TileCall, TileKernel};

/// One panel of the layer: its columns and what the base model adds to them.
pub(super) struct Panel<'a, 'c, E> {
    pub call: &'c LinearCall<'a, E>,
    /// Its first column.
    pub first: usize,
    /// Its columns that the layer has.
    pub width: usize,
    /// The base's bias, zeros where there is none.
    pub bias: &'c [f32; PANEL],
    /// For int8: scales and scales times sums.
    pub scales: Option<PanelScales<'c>>,
    /// The same, where the product leaves integers.
    pub unsettled: Option<PanelScales<'c>>,
}

/// What an adapter changes in a panel.
pub(super) struct Effect {
    pub gain: Option<[f32; PANEL]>,
    pub bias: [f32; PANEL],
    expands: Vec<Expand>,
    /// Copies of pieces of `B` that do not fill the panel, zeros around them.
    pieces: Vec<f32>,
}

/// `B`'s columns of a panel.
struct Expand {
    /// Where they begin in a row of `A x`, and how many there are, in steps of the product.
    first: usize,
    steps: usize,
    /// In `B`, with its bytes from step to step; or in `pieces`.
    b: Source,
    /// What integers of it are to be multiplied by.
    scale: f32,
    /// The group of `A x` that it is multiplied with.
    group: usize,
}

enum Source {
    Steps(*const u8, usize),
    Piece(usize),
}

impl<'a, 'c, E: Element> Panel<'a, 'c, E> {
    /// Panel `index`; a bias that does not fill it goes to `edge`.
    #[inline(always)]
    pub fn new(
        call: &'c LinearCall<'a, E>,
        index: usize,
        kernel: &TileKernel,
        edge: &'c mut [f32; PANEL],
    ) -> Self {
        let first = index * PANEL;
        let width = PANEL.min(call.weight.outputs() - first);
        let bias = match call.bias.map(|values| &values[first..first + width]) {
            None => &[0.0; PANEL],
            Some(values) => values.try_into().unwrap_or_else(|_| {
                edge[..width].copy_from_slice(values);
                &*edge
            }),
        };
        let int8 = call.weight.format().is_int8();
        let scales = int8.then(|| call.weight.panel_scales(index));
        Self { call, first, width, bias, scales, unsettled: scales.filter(|_| !kernel.settles) }
    }

    /// [`Self::effect_of`], unless `effect` is that of this segment, the one `before`.
    #[inline(always)]
    pub fn effect_of_next<'s>(
        &self,
        segment: &'s LoraSegment<'s>,
        packed: bool,
        before: &mut Option<&'s LoraSegment<'s>>,
        effect: &mut Effect,
    ) {
        if !before.is_some_and(|before| std::ptr::eq(before, segment)) {
            self.effect_of(segment, packed, effect);
            *before = Some(segment);
        }
    }

    /// What the rows' adapter changes here, written over `effect`.
    pub fn effect_of(&self, segment: &LoraSegment<'_>, packed: bool, effect: &mut Effect) {
        effect.gain = None;
        effect.bias = *self.bias;
        effect.expands.clear();
        effect.pieces.clear();
        let packed = segment.packed.filter(|_| packed);
        let mut first = 0;
        for span in &segment.spans {
            self.add_span(span, (first, packed.is_none()), effect);
            first += span.rank;
        }
        effect.expands.extend(packed.and_then(|packed| self.expand_of(packed)));
    }

    /// A packed adapter's `B` here; `None` where it changes no column of the panel.
    #[inline(always)]
    fn expand_of(&self, packed: &PackedLora) -> Option<Expand> {
        packed.expand(self.first / PANEL).map(Expand::packed)
    }

    /// `first`: the span's place in a row of `A x`, and whether its own values are to be used.
    fn add_span(&self, span: &LoraSpan<'_>, (first, own): (usize, bool), effect: &mut Effect) {
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
        if span.rank == 0 || !own {
            return;
        }
        let stride = span.columns.len();
        let b = if here.len() == PANEL {
            Source::Steps(span.b[there.start..].as_ptr().cast(), stride * size_of::<f32>())
        } else {
            let at = effect.pieces.len();
            effect.pieces.resize(at + span.rank * PANEL, 0.0);
            for (j, piece) in effect.pieces[at..].chunks_exact_mut(PANEL).enumerate() {
                piece[here.clone()].copy_from_slice(&span.b[j * stride..][there.clone()]);
            }
            Source::Piece(at)
        };
        effect.expands.push(Expand { first, steps: span.rank, b, scale: 1.0, group: 0 });
    }

    /// The expand of rows of one adapter, which is packed and brings nothing but `A` and `B`, and whose `A x` begins with `hidden`: it can
    /// follow the layer's own product in the same registers. `None` where it changes no column of the panel. For `last` see
    /// [`PackedLora::expand_after`].
    #[inline(always)]
    pub fn follow_on(
        &self,
        segment: &LoraSegment<'_>,
        last: &mut LastExpand,
        kernel: &TileKernel,
        hidden: &Hidden,
    ) -> Option<TileCall<'static>> {
        let expand = segment.packed?.expand_after(self.first / PANEL, last)?;
        Some(Expand::packed(expand).call(&[], kernel, hidden))
    }

    /// Adds `B h` of one adapter to the sums of some rows.
    ///
    /// # Safety
    /// Sums, which are settled, and `A x` lie where `rows` says; the effect is of the rows' segment; the kernel is one of the
    /// machine's, in registers, and reads `A x` as it lies.
    #[inline(always)]
    pub unsafe fn expand<O>(&self, kernel: &TileKernel, rows: &Rows<O>, effect: &Effect) {
        for expand in &effect.expands {
            let call = TileCall { out: rows.sums, ..expand.call(&effect.pieces, kernel, &rows.hidden) };
            // SAFETY: as the caller promises; `B` has as many steps with a panel's columns from here on.
            unsafe { over_rows(kernel, &call, rows.count) };
        }
    }

    /// The same for the rows of several adapters, all packed, which bring nothing but `A` and `B`.
    ///
    /// # Safety
    /// As for [`Self::expand`]; the segments are those of the call whose rows these are.
    #[inline(always)]
    pub unsafe fn expand_packed<O>(&self, kernel: &TileKernel, segments: &[LoraSegment<'_>], rows: &Rows<O>) {
        for (part, segment) in segments_in(segments, rows.first..rows.first + rows.count) {
            let Some(expand) = segment.packed.and_then(|packed| self.expand_of(packed)) else { continue };
            let at = part.start - rows.first;
            let out = rows.sums.wrapping_add(at * PANEL);
            let call = TileCall { out, ..expand.call(&[], kernel, &rows.hidden.at_row(at)) };
            // SAFETY: as above; the part is of these rows.
            unsafe { over_rows(kernel, &call, part.len()) };
        }
    }
}

impl Effect {
    pub fn none() -> Self {
        Self { gain: None, bias: [0.0; PANEL], expands: vec![], pieces: vec![] }
    }

    /// The expand of rows whose `A x` begins with `hidden`, when it is one product and nothing must come before it: then it
    /// can follow the layer's own in the same registers.
    #[inline(always)]
    pub fn follow_on(&self, kernel: &TileKernel, hidden: &Hidden) -> Option<TileCall<'static>> {
        match (&self.gain, &self.expands[..]) {
            (None, [expand]) => Some(expand.call(&self.pieces, kernel, hidden)),
            _ => None,
        }
    }
}

impl Expand {
    #[inline(always)]
    fn packed(panel: ExpandPanel) -> Self {
        let ExpandPanel { first, steps, data, scale, group } = panel;
        Self { first, steps, b: Source::Steps(data, STEP_BYTES), scale, group }
    }

    /// The product over rows whose `A x` begins with `hidden`, added to sums that are still to be named.
    #[inline(always)]
    fn call(&self, pieces: &[f32], kernel: &TileKernel, hidden: &Hidden) -> TileCall<'static> {
        let (panel, panel_stride) = match self.b {
            Source::Steps(b, stride) => (b, stride),
            Source::Piece(at) => (pieces[at..].as_ptr().cast(), STEP_BYTES),
        };
        // The layer's next panel: what is asked for much earlier is gone again before it is read, as the layer's own weights go
        // by in between.
        let ahead = if panel_stride == STEP_BYTES { self.steps * STEP_BYTES } else { STEP_BYTES };
        TileCall {
            a: hidden.row(0).wrapping_add(self.first * kernel.operand.step_bytes()),
            stride: hidden.stride,
            panel,
            panel_stride,
            steps: self.steps,
            columns: PANEL,
            ahead,
            many_rows: false,
            coming: &[],
            accumulate: true,
            scaling: hidden.scaling(self.group, self.scale),
            out: std::ptr::null_mut(),
            next: None,
        }
    }
}

/// A product over `rows` rows, in as many tiles as it takes.
///
/// # Safety
/// As for the functions of the kernel.
#[inline(always)]
unsafe fn over_rows(kernel: &TileKernel, call: &TileCall<'_>, rows: usize) {
    let mut at = 0;
    while at < rows {
        let count = kernel.rows_of(rows, at);
        // SAFETY: as the caller promises.
        unsafe { kernel.function(count)(&call.rows_from(at)) };
        at += count;
    }
}
