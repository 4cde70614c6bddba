//! An adapter's part of one linear layer in the order in which the products read it.

use half::bf16;

use crate::aligned::AlignedBuffer;
use crate::lora::LoraSpan;
use crate::packed_matrix::{PANEL, STEP_BYTES, WeightFormat, int8_scale, steps};
use crate::target::LANES;

/// `A` and `B` of the spans of one fused layer, for a base in bf16 or int8: `A` in the base's format, so that the layer's
/// own operand and products serve it, `B` in bf16.
///
/// The rows of all spans' `A` stand side by side, each span's padded to pairs, as columns of panels like those of a
/// [`PackedMatrix`](crate::PackedMatrix); the last panel is half as wide where that is enough. `B` lies panel by panel
/// of the layer's columns, with the ranks of those spans only that a panel has columns of.
#[derive(Debug)]
pub struct PackedLora {
    format: WeightFormat,
    inputs: usize,
    outputs: usize,
    /// Columns of `A x`, a multiple of [`LANES`].
    width: usize,
    a: AlignedBuffer,
    /// For int8, by column of `A x`: the scale, and the scale times the sum of the integers.
    scales: Vec<f32>,
    sums: Vec<f32>,
    b: AlignedBuffer,
    expands: Vec<ExpandPanel>,
}

/// A panel of `A`'s rows.
#[derive(Clone, Copy)]
pub(crate) struct ShrinkPanel {
    /// Its first column of `A x`.
    pub first: usize,
    /// Its first step.
    pub data: *const u8,
    /// Whether it has half a panel's columns.
    pub half: bool,
}

/// `B`'s part for a panel of the layer's columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpandPanel {
    /// The first pair of ranks, counted over all spans.
    pub first: usize,
    /// Pairs of ranks; 0 where no span has columns.
    pub steps: usize,
    /// Where its first step lies, in bytes.
    at: usize,
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
            width: columns.next_multiple_of(LANES),
            a: AlignedBuffer::default(),
            scales: vec![],
            sums: vec![],
            b: AlignedBuffer::default(),
            expands: vec![],
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
        let vectors = (self.scales.len() + self.sums.len()) * size_of::<f32>();
        self.a.bytes() + self.b.bytes() + vectors + self.expands.len() * size_of::<ExpandPanel>()
    }

    /// Bytes that [`Self::pack`] takes at most for a layer of so many inputs, whose spans have these ranks and columns.
    pub fn most_bytes(inputs: usize, spans: impl Iterator<Item = (usize, usize)>) -> usize {
        let (mut columns, mut b, mut panels) = (0, 0, 1);
        for (rank, outputs) in spans {
            columns += padded(rank);
            // A span may begin and end within panels.
            let touched = outputs.div_ceil(PANEL) + 1;
            b += padded(rank) / 2 * touched * STEP_BYTES;
            panels += touched;
        }
        let width = columns.next_multiple_of(LANES);
        let vectors = 2 * width * size_of::<f32>() + panels * size_of::<ExpandPanel>();
        width * steps(inputs, WeightFormat::Bf16) * size_of::<u32>() + b + vectors
    }

    /// Refuses a layer of other widths than it was packed for.
    pub(crate) fn check(&self, inputs: usize, outputs: usize) {
        assert_eq!(
            (self.inputs, self.outputs),
            (inputs, outputs),
            "the adapter was packed for another layer"
        );
    }

    /// Columns of `A x`.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// The panels of `A`.
    pub(crate) fn shrinks(&self) -> impl Iterator<Item = ShrinkPanel> {
        let bytes = steps(self.inputs, self.format) * STEP_BYTES / PANEL;
        (0..self.width).step_by(PANEL).map(move |first| ShrinkPanel {
            first,
            data: self.a.values::<u8>()[first * bytes..].as_ptr(),
            half: first + PANEL > self.width,
        })
    }

    /// For int8: scales and scales times sums of sixteen columns of `A x`.
    pub(crate) fn scales(&self, first: usize) -> Option<(&[f32], &[f32])> {
        (self.format == WeightFormat::Int8)
            .then(|| (&self.scales[first..first + LANES], &self.sums[first..first + LANES]))
    }

    /// `B` for panel `index` of the layer, with its first step.
    pub(crate) fn expand(&self, index: usize) -> (ExpandPanel, *const u8) {
        let panel = self.expands[index];
        (panel, self.b.values::<u8>()[panel.at..].as_ptr())
    }

    fn pack_a(&mut self, spans: &[LoraSpan<'_>]) {
        let (steps, group) = (steps(self.inputs, self.format), self.format.group());
        self.a = AlignedBuffer::zeroed(steps * self.width * 4);
        let width = self.width;
        let place = |column: usize, input: usize| {
            let first = column / PANEL * PANEL;
            let columns = PANEL.min(width - first);
            (first * steps + input / group * columns + column - first) * group + input % group
        };
        if self.format == WeightFormat::Int8 {
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
                let scale = int8_scale(row);
                let values = self.a.values_mut::<i8>();
                let mut sum = 0;
                for (i, v) in row.iter().enumerate() {
                    let q = (v / scale).round_ties_even().clamp(-127.0, 127.0) as i8;
                    values[place(column, i)] = q;
                    sum += q as i32;
                }
                (self.scales[column], self.sums[column]) = (scale, scale * sum as f32);
            }
            column += padded(span.rank);
        }
    }

    fn pack_b(&mut self, spans: &[LoraSpan<'_>]) {
        let mut at = 0;
        for first in (0..self.outputs).step_by(PANEL) {
            let touching =
                |span: &&LoraSpan<'_>| span.columns.start < first + PANEL && span.columns.end > first;
            let before =
                spans.iter().take_while(|span| !touching(span)).map(|span| padded(span.rank)).sum::<usize>();
            let ranks: usize = spans.iter().filter(touching).map(|span| padded(span.rank)).sum();
            let panel = ExpandPanel { first: before / 2, steps: ranks / 2, at };
            at += panel.steps * STEP_BYTES;
            self.expands.push(panel);
        }
        self.b = AlignedBuffer::zeroed(at);
        let values = self.b.values_mut::<bf16>();
        let mut before = 0;
        for span in spans {
            let columns = span.columns.len();
            for (j, row) in span.b.chunks_exact(columns.max(1)).enumerate() {
                for (i, v) in row.iter().enumerate() {
                    let (index, column) =
                        ((span.columns.start + i) / PANEL, (span.columns.start + i) % PANEL);
                    let panel = self.expands[index];
                    let rank = before + j - 2 * panel.first;
                    values[panel.at / 2 + (rank / 2 * PANEL + column) * 2 + rank % 2] = rounded(*v);
                }
            }
            before += padded(span.rank);
        }
    }
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
