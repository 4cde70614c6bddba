//! `h = A x` of packed adapters, by the layer's own products, and how it lies for the expand.

use std::ops::Range;

use half::bf16;

use super::operand::Operand;
use super::sums::from_integers;
use crate::aligned::AlignedBuffer;
use crate::element::Element;
use crate::lora::{LoraSegment, segments_in};
use crate::packed_lora::PackedLora;
use crate::packed_matrix::PANEL;
use crate::target::{LANES, Target};
use crate::tile::{AHEAD, OperandForm, SumsTile, TileCall, TileKernel};

/// `A x` of some rows as the expand's kernel reads it: bf16 or 16-bit integers where it has their dot product, else f32.
#[derive(Clone, Copy)]
pub(super) struct Hidden {
    data: *mut u8,
    /// Bytes from row to row.
    pub stride: usize,
    form: OperandForm,
}

impl Hidden {
    /// Of no rows.
    pub fn nothing() -> Self {
        Self { data: std::ptr::null_mut(), stride: 0, form: OperandForm::F32 }
    }

    /// Place for `rows` rows of `width` values.
    pub fn new(expand: &TileKernel, width: usize, rows: usize, buffer: &mut AlignedBuffer) -> Self {
        let form = expand.operand;
        let value = if form == OperandForm::Bf16 { size_of::<bf16>() } else { size_of::<f32>() };
        let stride = width * value;
        Self { data: buffer.at_least::<u8>(rows * stride).as_mut_ptr(), stride, form }
    }

    /// Where row `row` lies.
    pub fn row(&self, row: usize) -> *const u8 {
        self.data.wrapping_add(row * self.stride)
    }

    /// The same from row `row` on.
    pub fn at_row(&self, row: usize) -> Self {
        Self { data: self.data.wrapping_add(row * self.stride), ..*self }
    }

    /// Where row `row` lies as f32, and values from row to row.
    pub fn values_at(&self, row: usize) -> (*mut f32, usize) {
        (self.data.wrapping_add(row * self.stride).cast(), self.stride / size_of::<f32>())
    }

    /// What the integers of row `row` are to be multiplied by; `None` where they are floats.
    ///
    /// # Safety
    /// The row has been made integers of, if they are to be.
    #[inline(always)]
    pub unsafe fn scale(&self, row: usize) -> Option<f32> {
        // SAFETY: as the caller promises; see `round`.
        (self.form == OperandForm::Int16).then(|| unsafe { *self.place_of_scale(row) })
    }

    /// Writes sixteen values of row `row`, from column `column` on; as f32 where [`Self::round`] is to follow.
    ///
    /// # Safety
    /// They are within the place made.
    #[inline(always)]
    unsafe fn store<I: Target>(&self, values: I::Lanes, row: usize, column: usize) {
        // SAFETY: as the caller promises.
        unsafe {
            let row = self.data.add(row * self.stride);
            if self.form == OperandForm::Bf16 {
                bf16::store::<I>(values, row.cast::<bf16>().add(column));
            } else {
                I::store(values, row.cast::<f32>().add(column));
            }
        }
    }

    /// Makes row `row`, of which `columns` values mean something, integers of `most` at most, where it lies: they take half of its
    /// place, and the scale follows. A row that is not finite gets a scale of NaN.
    ///
    /// # Safety
    /// The row lies there in f32.
    #[inline(always)]
    unsafe fn round<I: Target>(&self, row: usize, columns: usize, most: f32) {
        let values = self.data.wrapping_add(row * self.stride).cast::<f32>();
        // SAFETY: columns are within the row, up to whole lanes, and integers are written where values have been read.
        unsafe {
            for column in columns..columns.next_multiple_of(LANES) {
                *values.add(column) = 0.0;
            }
            let (mut highest, mut flaw) = (I::splat(0.0), I::splat(0.0));
            for column in (0..columns).step_by(LANES) {
                let v = I::load(values.add(column));
                highest = I::max(I::max(highest, v), I::sub(I::splat(0.0), v));
                // Zero as long as all is finite: the highest alone does not show a NaN.
                flaw = I::fma(v, I::splat(0.0), flaw);
            }
            let step = I::highest(highest) / most;
            let scale = if step >= f32::MIN_POSITIVE { step } else { 1.0 };
            let inverse = I::splat(1.0 / scale);
            for column in (0..columns).step_by(LANES) {
                let v = I::mul(I::load(values.add(column)), inverse);
                I::store_i16(v, values.cast::<i16>().add(column));
            }
            *self.place_of_scale(row) = scale + I::sum(flaw);
        }
    }

    fn place_of_scale(&self, row: usize) -> *mut f32 {
        self.data.wrapping_add(row * self.stride + self.stride / 2).cast()
    }
}

/// `h = A x` for the rows `part` of a block of rows `block`, counted from its first, with the block's operand, into the block's
/// `hidden`, which has place for the widest adapter. All segments with a low-rank part are packed for the kernel's format; a
/// part begins and ends with whole tiles or with the block.
#[inline(always)]
pub(super) fn shrink_packed<I: Target>(
    (kernel, operand): (&TileKernel, &Operand),
    (block, part): (Range<usize>, Range<usize>),
    segments: &[LoraSegment<'_>],
    hidden: &Hidden,
) {
    let rows = block.start + part.start..block.start + part.end;
    let mut sums = SumsTile::default();
    let _tiles = kernel.begin();
    for (part, segment) in segments_in(segments, rows) {
        let Some(packed) = segment.packed else { continue };
        let part = part.start - block.start..part.end - block.start;
        let mut at = part.start;
        while at < part.end {
            // Tiles begin where those of the layer's product do: the operand has whole ones.
            let (first, count) = if kernel.tiles {
                let first = at - at % kernel.max_rows();
                let count = kernel.rows_of(block.len(), first);
                // Half of them where the adapter's rows are in one half.
                let half = at - at % kernel.rows_multiple();
                if part.end <= half + kernel.rows_multiple() || first + count <= half + kernel.rows_multiple()
                {
                    (half, kernel.rows_multiple().min(first + count - half))
                } else {
                    (first, count)
                }
            } else {
                (at, kernel.rows_of(part.len(), at - part.start))
            };
            let end = part.end.min(first + count);
            for panel in packed.shrinks() {
                let call = TileCall {
                    a: operand.row(first),
                    stride: operand.stride,
                    panel: panel.data,
                    panel_stride: panel.stride,
                    steps: operand.steps,
                    half: panel.half,
                    ahead: AHEAD,
                    many_rows: part.len() > kernel.max_rows(),
                    coming: &[],
                    accumulate: false,
                    next: None,
                    out: sums.0.as_mut_ptr(),
                };
                // SAFETY: the kernel was chosen for an instruction set that the machine has; the operand has the rows that it
                // reads and the adapter, packed for as many inputs, the steps, each followed by a panel's bytes; a tile has room for the most
                // rows of any kernel.
                unsafe { kernel.function(count)(&call) };
                for column in (0..panel.width()).step_by(LANES) {
                    // SAFETY: the rows are of this tile and of the block; `hidden` has place for the panels of each adapter.
                    unsafe {
                        write_columns::<I>(
                            &sums,
                            (first, at..end),
                            (panel.first, column),
                            operand,
                            packed,
                            hidden,
                        )
                    };
                }
            }
            if let Some(most) = packed.most() {
                for row in at..end {
                    // SAFETY: all columns of the row have been written as f32.
                    unsafe { hidden.round::<I>(row, packed.columns(), most) };
                }
            }
            at = end;
        }
    }
}

/// Sixteen columns of the rows `rows` of a tile that begins at row `first`.
///
/// # Safety
/// The rows are of the tile and have place in `hidden`, with scales in the operand where the format has some.
#[inline(always)]
unsafe fn write_columns<I: Target>(
    sums: &SumsTile,
    (first, rows): (usize, Range<usize>),
    (panel, column): (usize, usize),
    operand: &Operand,
    packed: &PackedLora,
    hidden: &Hidden,
) {
    let scales = packed.scales(panel + column);
    for row in rows {
        let from = sums.0[(row - first) * PANEL + column..].as_ptr();
        // SAFETY: as the caller promises.
        unsafe {
            let values = match scales {
                None => I::load(from.cast()),
                Some((scales, totals)) => from_integers::<I>(
                    from.cast(),
                    *operand.scales.add(row),
                    scales.as_ptr(),
                    totals.as_ptr(),
                ),
            };
            hidden.store::<I>(values, row, panel + column);
        }
    }
}
