//! An adapter's part of one linear layer in the order in which the products read it.

#[cfg(test)]
mod laws;

use std::ops::Range;

use half::bf16;

use crate::aligned::{AlignedBuffer, LINE};
use crate::int8_row::quantize_row;
use crate::lora::LoraSpan;
use crate::packed_matrix::{PANEL, STEP_BYTES, WeightFormat, steps};
use crate::target::LANES;

/// What a column of a step takes.
const COLUMN_BYTES: usize = STEP_BYTES / PANEL;

/// `A` and `B` of the spans of one fused layer, for a base in bf16 or int8: `A` in the base's format, so that the layer's
/// own operand and products serve it, `B` in bf16, or, for [`WeightFormat::Int8InEights`], in 16-bit integers with one scale a panel: what
/// has neither dot products of bytes has none of bf16.
///
/// The rows of all spans' `A` stand side by side, each span's padded to pairs, as columns of panels like those of a
/// [`PackedMatrix`](crate::PackedMatrix); the last panel has no more columns than there are, as a decode step reads an
/// adapter's whole `A` for a row or two. `B` lies panel by panel of the layer's columns, with the ranks of those spans
/// only that a panel has columns of.
#[derive(Debug)]
pub struct PackedLora {
    format: WeightFormat,
    inputs: usize,
    outputs: usize,
    /// Columns of `A x`, in pairs.
    columns: usize,
    a: AlignedBuffer,
    /// For int8, by column of `A x`: the scale, and the scale times the sum of the integers.
    scales: Vec<f32>,
    sums: Vec<f32>,
    b: AlignedBuffer,
    /// For 16-bit integers, by panel that spans have columns of: the scale.
    b_scales: Vec<f32>,
    expands: Vec<ExpandRun>,
    /// Columns of `A x` that are never added up with those of another group: spans that no panel has columns of together. Where `A x` is
    /// integers, each group of a row has its scale.
    groups: Vec<Range<usize>>,
}

/// A panel of `A`'s rows.
#[derive(Clone, Copy)]
pub(crate) struct ShrinkPanel {
    /// Its first column of `A x`.
    pub first: usize,
    /// Its first step. A whole panel can be read from any step: what lies beyond its own columns is the next step's.
    pub data: *const u8,
    /// Bytes from step to step.
    pub stride: usize,
    /// Columns that it has.
    pub columns: usize,
}

/// `B`'s part for a panel of the layer's columns.
#[derive(Clone, Copy)]
pub(crate) struct ExpandPanel {
    /// The first pair of ranks, counted over all spans.
    pub first: usize,
    /// Pairs of ranks, one at least.
    pub steps: usize,
    /// Its first step.
    pub data: *const u8,
    /// What its integers are to be multiplied by; 1 for floats.
    pub scale: f32,
    /// The group that its ranks are of.
    pub group: usize,
}

/// The last panel that was asked for, so that the next one is found without looking around.
#[derive(Default)]
pub(crate) struct LastExpand {
    index: usize,
    /// Where its run ends; 0 before the first.
    run_end: usize,
    panel: Option<ExpandPanel>,
}

/// Panels one after the other that the same spans have columns of. A layer has few runs, and so they stay in a cache while
/// panels by the hundred go by.
#[derive(Debug)]
struct ExpandRun {
    panels: Range<usize>,
    /// The first pair of ranks, counted over all spans.
    first: usize,
    /// Pairs of ranks; 0 where no span has columns.
    steps: usize,
    /// Where the first panel lies, in bytes, and its scale.
    at: usize,
    scale: usize,
    /// The group that its ranks are of.
    group: usize,
}

impl ExpandRun {
    /// Where a panel lies, in bytes.
    fn place(&self, panel: usize) -> usize {
        self.at + (panel - self.panels.start) * self.steps * STEP_BYTES
    }
}

impl ShrinkPanel {
    /// Columns that are read at once, of which some may mean nothing.
    pub fn width(&self) -> usize {
        if self.columns <= LANES { LANES } else { PANEL }
    }
}

impl PackedLora {
    /// Packs what an adapter brings to a layer `[outputs, inputs]`, for a base of a format; `None` where the kernels read
    /// the spans as they are: beside a base in f32, or where there is no low-rank part.
    ///
    /// # Panics
    /// When a span does not fit the layer, or the spans are out of order.
    pub fn pack(spans: &[LoraSpan<'_>], outputs: usize, inputs: usize, format: WeightFormat) -> Option<Self> {
        spans.iter().for_each(|span| span.check(inputs, outputs));
        let ordered = spans.windows(2).all(|s| s[0].columns.end <= s[1].columns.start);
        assert!(ordered, "the spans of a layer overlap or are out of order");
        let columns: usize = spans.iter().map(|span| padded(span.rank)).sum();
        if format == WeightFormat::F32 || columns == 0 {
            return None;
        }
        let mut packed = Self {
            format,
            inputs,
            outputs,
            columns,
            a: AlignedBuffer::default(),
            scales: vec![],
            sums: vec![],
            b: AlignedBuffer::default(),
            b_scales: vec![],
            expands: vec![],
            groups: vec![],
        };
        packed.pack_a(spans);
        packed.pack_b(spans);
        Some(packed)
    }

    /// The base's format that it was packed for.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        let vectors = (self.scales.len() + self.sums.len() + self.b_scales.len()) * size_of::<f32>();
        let vectors = vectors + self.groups.len() * size_of::<Range<usize>>();
        self.a.bytes() + self.b.bytes() + vectors + self.expands.len() * size_of::<ExpandRun>()
    }

    /// Bytes that [`Self::pack`] takes at most for a layer of so many inputs, whose spans have these ranks and columns.
    pub fn most_bytes(inputs: usize, spans: impl Iterator<Item = (usize, usize)>) -> usize {
        let (mut columns, mut b, mut runs, mut groups) = (0, 0, 1, 0);
        for (rank, outputs) in spans {
            columns += padded(rank);
            // A span may begin and end within panels.
            let touched = outputs.div_ceil(PANEL) + 1;
            b += (padded(rank) / 2 * STEP_BYTES + size_of::<f32>()) * touched;
            // Its first panel, those within, its last one, and what lies between it and the next span.
            runs += 4;
            groups += 1;
        }
        let width = columns.next_multiple_of(LANES);
        let vectors =
            2 * width * size_of::<f32>() + runs * size_of::<ExpandRun>() + groups * size_of::<Range<usize>>();
        let a = columns * steps(inputs, WeightFormat::Bf16) * size_of::<u32>() + STEP_BYTES;
        a.next_multiple_of(LINE) + b + vectors
    }

    /// Refuses a layer of other widths than it was packed for.
    pub(crate) fn check(&self, inputs: usize, outputs: usize) {
        assert_eq!(
            (self.inputs, self.outputs),
            (inputs, outputs),
            "the adapter was packed for another layer"
        );
    }

    /// Columns of `A x` that are never added up with others, in order.
    pub(crate) fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    /// Values of a row of `A x`: its columns up to a multiple of [`LANES`]; what those beyond hold means nothing.
    pub(crate) fn width(&self) -> usize {
        self.columns.next_multiple_of(LANES)
    }

    /// The panels of `A`.
    pub(crate) fn shrinks(&self) -> impl Iterator<Item = ShrinkPanel> {
        let bytes = steps(self.inputs, self.format) * COLUMN_BYTES;
        (0..self.columns).step_by(PANEL).map(move |first| {
            let columns = PANEL.min(self.columns - first);
            let data = self.a.values::<u8>()[first * bytes..].as_ptr();
            ShrinkPanel { first, data, stride: columns * COLUMN_BYTES, columns }
        })
    }

    /// For int8: scales and scales times sums of sixteen columns of `A x`.
    pub(crate) fn scales(&self, first: usize) -> Option<(&[f32], &[f32])> {
        self.format.is_int8().then(|| (&self.scales[first..first + LANES], &self.sums[first..first + LANES]))
    }

    /// `B` for panel `index` of the layer; `None` where no span has columns of it.
    #[inline(always)]
    pub(crate) fn expand(&self, index: usize) -> Option<ExpandPanel> {
        self.panel_of(run_of(&self.expands, index), index)
    }

    /// The same for panels that are asked for one after the other, where `B` is floats: `last` is [`LastExpand::default`] at first, and then
    /// what this has left there.
    #[inline(always)]
    pub(crate) fn expand_after(&self, index: usize, last: &mut LastExpand) -> Option<ExpandPanel> {
        debug_assert!(self.b_scales.is_empty(), "each panel of integers has a scale");
        if last.index + 1 == index && index < last.run_end {
            last.index = index;
            if let Some(panel) = &mut last.panel {
                panel.data = panel.data.wrapping_add(panel.steps * STEP_BYTES);
            }
        } else {
            let run = run_of(&self.expands, index);
            *last = LastExpand { index, run_end: run.panels.end, panel: self.panel_of(run, index) };
        }
        last.panel
    }

    #[inline(always)]
    fn panel_of(&self, run: &ExpandRun, index: usize) -> Option<ExpandPanel> {
        if run.steps == 0 {
            return None;
        }
        let data = self.b.values::<u8>()[run.place(index)..].as_ptr();
        let scale = self.b_scales.get(run.scale + index - run.panels.start).copied().unwrap_or(1.0);
        Some(ExpandPanel { first: run.first, steps: run.steps, data, scale, group: run.group })
    }

    /// Where `A x` and `B` are 16-bit integers: the largest magnitude of either.
    pub(crate) fn most(&self) -> Option<f32> {
        let steps = self.expands.iter().map(|run| run.steps).max().unwrap_or(0);
        (self.format == WeightFormat::Int8InEights).then(|| most_of(2 * steps))
    }

    fn pack_a(&mut self, spans: &[LoraSpan<'_>]) {
        let (steps, group) = (steps(self.inputs, self.format), self.format.group());
        // The last steps are read as wide as a panel is.
        self.a = AlignedBuffer::zeroed(steps * self.columns * COLUMN_BYTES + STEP_BYTES);
        let width = self.width();
        let all = self.columns;
        let place = |column: usize, input: usize| {
            let first = column / PANEL * PANEL;
            let columns = PANEL.min(all - first);
            (first * steps + input / group * columns + column - first) * group + input % group
        };
        if self.format.is_int8() {
            (self.scales, self.sums) = (vec![0.0; width], vec![0.0; width]);
        }
        let mut column = 0;
        for span in spans {
            for (r, row) in span.a.chunks_exact(self.inputs.max(1)).enumerate() {
                let column = column + r;
                if self.format == WeightFormat::Bf16 {
                    let values = self.a.values_mut::<bf16>();
                    row.iter().enumerate().for_each(|(i, v)| values[place(column, i)] = rounded(*v));
                    continue;
                }
                let values = self.a.values_mut::<i8>();
                let found = quantize_row(row, self.format, |i, q| values[place(column, i)] = q);
                (self.scales[column], self.sums[column]) = (found.scale, found.total);
            }
            column += padded(span.rank);
        }
    }

    fn pack_b(&mut self, spans: &[LoraSpan<'_>]) {
        let (mut at, mut scale) = (0, 0);
        for index in 0..self.outputs.div_ceil(PANEL) {
            let columns = index * PANEL..(index + 1) * PANEL;
            let touching =
                |span: &&LoraSpan<'_>| span.columns.start < columns.end && span.columns.end > columns.start;
            let before =
                spans.iter().take_while(|span| !touching(span)).map(|span| padded(span.rank)).sum::<usize>();
            let ranks: usize = spans.iter().filter(touching).map(|span| padded(span.rank)).sum();
            let (first, steps) = (before / 2, ranks / 2);
            match self.expands.last_mut() {
                Some(run) if (run.first, run.steps) == (first, steps) => run.panels.end += 1,
                _ => {
                    let ranks = 2 * first..2 * (first + steps);
                    match self.groups.last_mut() {
                        Some(last) if ranks.start < last.end => last.end = last.end.max(ranks.end),
                        _ if steps > 0 => self.groups.push(ranks),
                        _ => {}
                    }
                    let group = self.groups.len().saturating_sub(1);
                    let panels = index..index + 1;
                    self.expands.push(ExpandRun { panels, first, steps, at, scale, group });
                }
            }
            at += steps * STEP_BYTES;
            scale += usize::from(steps > 0);
        }
        self.b = AlignedBuffer::zeroed(at);
        let Some(most) = self.most() else {
            let values = self.b.values_mut::<bf16>();
            return each_of_b(&self.expands, spans, |place, value| values[place.at] = rounded(value));
        };
        let mut scales = vec![0f32; scale];
        each_of_b(&self.expands, spans, |place, value| {
            scales[place.scale] = scales[place.scale].max(value.abs() / most);
        });
        for scale in scales.iter_mut().filter(|scale| **scale == 0.0 || !scale.is_finite()) {
            *scale = 1.0;
        }
        let values = self.b.values_mut::<i16>();
        each_of_b(&self.expands, spans, |place, value| {
            let integer = (value / scales[place.scale]).round_ties_even().clamp(-most, most);
            values[place.at] = integer as i16;
        });
        self.b_scales = scales;
    }
}

/// Where a value of `B` goes, in values of two bytes, and where its panel's scale lies.
struct PlaceInB {
    at: usize,
    scale: usize,
}

/// Gives each value of the spans' `B` with its place to `put`.
fn each_of_b(runs: &[ExpandRun], spans: &[LoraSpan<'_>], mut put: impl FnMut(PlaceInB, f32)) {
    let mut before = 0;
    for span in spans {
        let Range { start, end } = span.columns;
        for index in start / PANEL..end.div_ceil(PANEL) {
            let run = run_of(runs, index);
            let (place, before) = (run.place(index) / size_of::<bf16>(), before - 2 * run.first);
            let here = start.max(index * PANEL)..end.min((index + 1) * PANEL);
            for (j, row) in span.b.chunks_exact((end - start).max(1)).enumerate() {
                let rank = before + j;
                for column in here.clone() {
                    let at = place + (rank / 2 * PANEL + column % PANEL) * 2 + rank % 2;
                    put(PlaceInB { at, scale: run.scale + index - run.panels.start }, row[column - start]);
                }
            }
        }
        before += padded(span.rank);
    }
}

/// The run that a panel is of.
#[inline(always)]
fn run_of(runs: &[ExpandRun], panel: usize) -> &ExpandRun {
    &runs[runs.partition_point(|run| run.panels.end <= panel)]
}

/// The largest magnitude of two rows of 16-bit integers of which so many products fit 32 bits.
pub(crate) fn most_of(products: usize) -> f32 {
    let most = (i32::MAX as f64 / products.max(1) as f64).sqrt().floor();
    most.min(i16::MAX as f64) as f32
}

/// A span's columns of `A x`: pairs, as bf16's products take them.
fn padded(rank: usize) -> usize {
    rank.next_multiple_of(2)
}

/// The nearest finite bf16 of what is finite: zeros beside an infinity would not be zeros.
fn rounded(value: f32) -> bf16 {
    let nearest = bf16::from_f32(value);
    match nearest.is_infinite() && value.is_finite() {
        true if value < 0.0 => bf16::MIN,
        true => bf16::MAX,
        false => nearest,
    }
}
