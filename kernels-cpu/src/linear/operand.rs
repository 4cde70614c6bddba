//! A layer's input in the form in which the product reads it.

use std::ops::Range;

use half::bf16;

use crate::aligned::AlignedBuffer;
use crate::element::Element;
use crate::packed_matrix::{PackedMatrix, WeightFormat};
use crate::target::{LANES, Target};
use crate::tile::{OperandForm, TileKernel};

/// Extra bytes a row, so that rows of a power of two do not fall into the same sets of the cache.
const ROW_GAP: usize = 64;

/// Rows as a [`TileKernel`] reads them.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    /// The first row.
    data: *const u8,
    /// Bytes from row to row.
    pub stride: usize,
    /// From this row on they lie elsewhere, followed by rows of zeros: the rest of a tile.
    tail: Option<(usize, *const u8)>,
    /// Steps of the product.
    pub steps: usize,
    /// For bytes, by row: scale, and scale times the byte that means zero.
    pub scales: *const [f32; 2],
    /// Where rows and scales are still to be written.
    to: Option<(*mut u8, *mut [f32; 2])>,
}

impl Operand {
    /// No rows.
    pub fn nothing() -> Self {
        let (data, scales) = (std::ptr::null(), std::ptr::null());
        Self { data, stride: 0, tail: None, steps: 0, scales, to: None }
    }

    /// Whether the rows lie right as they are.
    pub fn is_filled(&self) -> bool {
        self.to.is_none()
    }

    /// Where row `row` lies.
    pub fn row(&self, row: usize) -> *const u8 {
        match self.tail {
            Some((first, tail)) if row >= first => tail.wrapping_add((row - first) * self.stride),
            _ => self.data.wrapping_add(row * self.stride),
        }
    }
}

/// Memory that operands are made in; kept from call to call.
#[derive(Default)]
pub(super) struct OperandBuffer {
    rows: AlignedBuffer,
    scales: AlignedBuffer,
}

impl Operand {
    /// The operand for `x`, `[rows, inputs]`: `x` itself where it already lies right, else a place for [`Self::fill`].
    pub fn place<E: Element>(
        kernel: &TileKernel,
        weight: &PackedMatrix,
        x: &[E],
        buffer: &mut OperandBuffer,
    ) -> Self {
        let inputs = weight.inputs();
        let rows = x.len() / inputs.max(1);
        let steps = kernel.steps(weight.format(), inputs);
        let as_it_is = match kernel.operand {
            OperandForm::F32 => E::FORMAT == WeightFormat::F32,
            OperandForm::Bf16 => E::FORMAT == WeightFormat::Bf16,
            OperandForm::Widened | OperandForm::Bytes | OperandForm::Int16 => false,
        };
        if as_it_is && steps * weight.format().group() == inputs {
            let (data, stride) = (x.as_ptr().cast::<u8>(), inputs * size_of::<E>());
            let in_place = Self { data, stride, steps, ..Self::nothing() };
            let whole = rows - rows % kernel.max_rows();
            if rows.is_multiple_of(kernel.rows_multiple()) || whole == rows {
                return in_place;
            }
            let rest = rows - whole;
            let padded = rest.next_multiple_of(kernel.rows_multiple()) * stride;
            let tail = buffer.rows.at_least::<u8>(padded);
            tail[rest * stride..].fill(0);
            // SAFETY: `rest` rows lie at the end of x, and the buffer has room for them.
            unsafe {
                std::ptr::copy_nonoverlapping(data.add(whole * stride), tail.as_mut_ptr(), rest * stride)
            };
            return Self { tail: Some((whole, tail.as_ptr())), ..in_place };
        }
        let stride = steps * kernel.operand.step_bytes() + ROW_GAP;
        let padded = rows.next_multiple_of(kernel.rows_multiple());
        let out = buffer.rows.at_least::<u8>(padded * stride);
        out[rows * stride..].fill(0);
        let scales = buffer.scales.at_least::<[f32; 2]>(rows).as_mut_ptr();
        let data = out.as_mut_ptr();
        Self { data, stride, tail: None, steps, scales, to: Some((data, scales)) }
    }

    /// Writes the rows `rows` of `x`, of `inputs` values each, where they do not lie right already.
    ///
    /// # Safety
    /// The operand was placed for this `x`, its buffer has not been used since, and nobody else writes or reads these rows.
    #[inline(always)]
    pub unsafe fn fill<I: Target, E: Element>(
        &self,
        form: OperandForm,
        (x, inputs): (&[E], usize),
        rows: Range<usize>,
    ) {
        let Some((data, scales)) = self.to else { return };
        for r in rows {
            let x = &x[r * inputs..][..inputs];
            // SAFETY: the place has this row, `stride` bytes long, and its scales.
            let row = unsafe { std::slice::from_raw_parts_mut(data.add(r * self.stride), self.stride) };
            match form {
                OperandForm::F32 | OperandForm::Widened => convert::<I, E, f32>(x, row),
                OperandForm::Bf16 => convert::<I, E, bf16>(x, row),
                // SAFETY: as above.
                OperandForm::Bytes => unsafe { *scales.add(r) = quantize::<I, E>(x, row) },
                OperandForm::Int16 => unreachable!("no layer's weights are 16-bit integers"),
            }
        }
    }
}

/// `x` as `O`s at the start of `row`, zeros behind.
#[inline(always)]
fn convert<I: Target, E: Element, O: Element>(x: &[E], row: &mut [u8]) {
    assert!(x.len() * size_of::<O>() <= row.len());
    let to = row.as_mut_ptr().cast::<O>();
    let whole = x.len() - x.len() % LANES;
    // SAFETY: all values are within x and within the row, whose length was compared; rows begin on 64-byte lines.
    unsafe {
        for k in (0..whole).step_by(LANES) {
            O::store::<I>(E::load::<I>(x.as_ptr().add(k)), to.add(k));
        }
        for (k, value) in x.iter().enumerate().skip(whole) {
            *to.add(k) = O::from_f32(value.to_f32());
        }
    }
    row[x.len() * size_of::<O>()..].fill(0);
}

/// `x` as bytes, asymmetric over its own range with zero in it: gives the scale and the scale times the byte of zero.
/// A row that is not finite gets a scale of NaN.
#[inline(always)]
fn quantize<I: Target, E: Element>(x: &[E], row: &mut [u8]) -> [f32; 2] {
    assert!(x.len().next_multiple_of(LANES) <= row.len());
    let whole = x.len() - x.len() % LANES;
    let (mut tail, rest) = ([E::default(); LANES], x.len() - whole);
    tail[..rest].copy_from_slice(&x[whole..]);
    // SAFETY: so many values lie in x.
    let most = unsafe { E::extremes::<I>(x.as_ptr(), whole) };
    // SAFETY: sixteen values lie in the tail.
    let last = if rest > 0 { unsafe { E::extremes::<I>(tail.as_ptr(), LANES) } } else { most };
    let (lowest, highest) = (most.lowest.min(last.lowest), most.highest.max(last.highest));
    // Halves of the range by themselves: together they may be more than f32 holds.
    let step = highest / 255.0 - lowest / 255.0;
    // A row of next to nothing is one of zeros: the inverse of its step would be infinite.
    let scale = if step >= f32::MIN_POSITIVE { step } else { 1.0 };
    let zero = (-lowest / scale).round_ties_even();
    let (inverse, zeros) = (I::splat(1.0 / scale), I::splat(zero));
    let (from, to) = (x.as_ptr(), row.as_mut_ptr());
    let in_fours = whole - whole % (4 * LANES);
    // SAFETY: here and below all values are within x, and bytes within the row, whose length was compared.
    unsafe {
        for k in (0..in_fours).step_by(4 * LANES) {
            let mut lanes = [zeros; 4];
            for (i, lanes) in lanes.iter_mut().enumerate() {
                *lanes = I::fma(E::load::<I>(from.add(k + i * LANES)), inverse, zeros);
            }
            I::store_64_u8(lanes, to.add(k));
        }
        for k in (in_fours..whole).step_by(LANES) {
            I::store_u8(I::fma(E::load::<I>(from.add(k)), inverse, zeros), to.add(k));
        }
        if rest > 0 {
            I::store_u8(I::fma(E::load::<I>(tail.as_ptr()), inverse, zeros), to.add(whole));
        }
    }
    let scale = if most.finite && last.finite { scale } else { f32::NAN };
    [scale, scale * zero]
}
