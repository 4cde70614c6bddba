//! `h = A x` of packed adapters, by the layer's own products, and how it lies for the expand.

use std::ops::Range;

use half::bf16;

use super::operand::Operand;
use super::sums::from_integers;
use crate::aligned::AlignedBuffer;
use crate::element::{Element, load_part};
use crate::lora::{LoraSegment, segments_in};
use crate::packed_lora::PackedLora;
use crate::target::{LANES, Target};
use crate::tile::{AHEAD, OperandForm, RowFactors, Scaling, SumsTile, TileCall, TileKernel};

/// `A x` of some rows as the expand's kernel reads it: bf16 or 16-bit integers where it has their dot product, else f32.
///
/// A row of integers is followed by the scales of its groups, and by its values in f32, of which [`Hidden::round`] makes them.
#[derive(Clone, Copy)]
pub(super) struct Hidden {
    data: *mut u8,
    /// Bytes from row to row.
    pub stride: usize,
    form: OperandForm,
    /// Values of a row.
    width: usize,
}

impl Hidden {
    /// Of no rows.
    pub fn nothing() -> Self {
        Self { data: std::ptr::null_mut(), stride: 0, form: OperandForm::F32, width: 0 }
    }

    /// Place for `rows` rows of `width` values, a multiple of [`LANES`] where adapters are packed.
    pub fn new(expand: &TileKernel, width: usize, rows: usize, buffer: &mut AlignedBuffer) -> Self {
        let form = expand.operand;
        let stride = match form {
            OperandForm::Bf16 => width * size_of::<bf16>(),
            OperandForm::Int16 => places_of_integers(width).1 + width * size_of::<f32>(),
            _ => width * size_of::<f32>(),
        };
        Self { data: buffer.at_least::<u8>(rows * stride).as_mut_ptr(), stride, form, width }
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

    /// What the integers of a group are to be multiplied by, beside panels of a scale; nothing where they are floats.
    pub fn scaling(&self, group: usize, of_panel: f32) -> Scaling {
        let at = places_of_integers(self.width).0;
        let of_rows = self.data.wrapping_add(at).cast::<f32>().wrapping_add(group).cast_const();
        match self.form {
            OperandForm::Int16 => Scaling::Int16(RowFactors { of_rows, of_panel }),
            _ => Scaling::None,
        }
    }

    /// Writes sixteen values of row `row`, from column `column` on.
    ///
    /// # Safety
    /// They are within the place made.
    #[inline(always)]
    unsafe fn store<I: Target>(&self, values: I::Lanes, row: usize, column: usize) {
        // SAFETY: as the caller promises.
        unsafe {
            let row = self.data.add(row * self.stride);
            match self.form {
                OperandForm::Bf16 => bf16::store::<I>(values, row.cast::<bf16>().add(column)),
                OperandForm::Int16 => {
                    I::store(values, row.add(places_of_integers(self.width).1).cast::<f32>().add(column));
                }
                _ => I::store(values, row.cast::<f32>().add(column)),
            }
        }
    }

    /// Makes integers of row `row`, `most` at most in each of the groups of columns, and notes their scales. A group that is not finite
    /// gets a scale of NaN.
    ///
    /// # Safety
    /// The form is that of integers, and all columns of the groups, which are in order, have been stored.
    #[inline(always)]
    unsafe fn round<I: Target>(&self, row: usize, groups: &[Range<usize>], most: f32) {
        let (scales_at, values_at) = places_of_integers(self.width);
        // SAFETY: as the caller promises. Integers beyond a group's end are written again by the next group, or lie where nothing does.
        unsafe {
            let row = self.data.add(row * self.stride);
            let (values, integers) = (row.add(values_at).cast::<f32>(), row.cast::<i16>());
            for (group, columns) in groups.iter().enumerate() {
                let (mut highest, mut flaw) = (I::splat(0.0), I::splat(0.0));
                for column in columns.clone().step_by(LANES) {
                    let v = lanes_of::<I>(values, column..columns.end);
                    highest = I::max(I::max(highest, v), I::sub(I::splat(0.0), v));
                    // Zero as long as all is finite: the highest alone does not show a NaN.
                    flaw = I::fma(v, I::splat(0.0), flaw);
                }
                let step = I::highest(highest) / most;
                // Next to nothing is zeros: the inverse of its step would be infinite.
                let scale = if step >= f32::MIN_POSITIVE { step } else { 1.0 };
                let inverse = I::splat(1.0 / scale);
                for column in columns.clone().step_by(LANES) {
                    let v = I::mul(lanes_of::<I>(values, column..columns.end), inverse);
                    I::store_i16(v, integers.add(column));
                }
                *row.add(scales_at).cast::<f32>().add(group) = scale + I::sum(flaw);
            }
        }
    }
}

/// Where the scales of a row of integers begin and where its values do, in bytes: there are no more groups than pairs of columns, and
/// place for the lanes that the last integers are written with.
fn places_of_integers(width: usize) -> (usize, usize) {
    let scales = (width + LANES) * size_of::<i16>();
    (scales, scales + width / 2 * size_of::<f32>())
}

/// The columns of a row, sixteen at most, zeros behind.
///
/// # Safety
/// They lie there.
#[inline(always)]
unsafe fn lanes_of<I: Target>(values: *const f32, columns: Range<usize>) -> I::Lanes {
    // SAFETY: as the caller promises.
    unsafe {
        let from = values.add(columns.start);
        if columns.len() >= LANES { I::load(from) } else { load_part::<I, f32>(from, columns.len()) }
    }
}

/// `h = A x` for the rows `part` of a block of rows `block`, counted from its first, with the block's operand, into the block's
/// `hidden`, which has place for the widest adapter. All segments with a low-rank part are packed for the kernel's format; a
/// part begins and ends with whole tiles, where the kernel has such, or with the block.
#[inline(always)]
pub(super) fn shrink_packed<I: Target>(
    (kernel, operand): (&TileKernel, &Operand),
    (block, part): (Range<usize>, Range<usize>),
    segments: &[LoraSegment<'_>],
    hidden: &Hidden,
) {
    let rows = block.start + part.start..block.start + part.end;
    // Columns that an adapter has not are read, too.
    let mut sums = SumsTile::zeroed();
    let _tiles = kernel.begin();
    for (part, segment) in segments_in(segments, rows) {
        let Some(packed) = segment.packed else { continue };
        let most = packed.most();
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
                    columns: panel.columns,
                    ahead: AHEAD,
                    many_rows: part.len() > kernel.max_rows(),
                    coming: &[],
                    accumulate: false,
                    scaling: Scaling::None,
                    next: None,
                    out: sums.as_mut_ptr(),
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
            if let Some(most) = most {
                for row in at..end {
                    // SAFETY: all columns of the row have been stored, and the format's form of the expand is that of integers.
                    unsafe { hidden.round::<I>(row, packed.groups(), most) };
                }
            }
            at = end;
        }
    }
}

/// Sixteen columns of the rows `rows` of a tile that begins at row `first`.
///
/// # Safety
/// The rows are of the tile, in which something lies everywhere, and have place in `hidden`, with scales in the operand where the
/// format has some.
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
        // SAFETY: as the caller promises; scales are those of sixteen columns.
        unsafe {
            let from = sums.row(row - first).add(column);
            let values = match scales {
                None => I::load(from.cast()),
                Some((scales, totals)) => from_integers::<I>(
                    from.cast(),
                    *operand.scales.add(row),
                    I::load(scales.as_ptr()),
                    I::load(totals.as_ptr()),
                ),
            };
            hidden.store::<I>(values, row, panel + column);
        }
    }
}
