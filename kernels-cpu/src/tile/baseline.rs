//! The products as plain loops: what every machine can do, and what the others are tested against.

use super::{OperandForm, TileCall, TileFn, by_rows};
use crate::packed_matrix::{PANEL, WeightFormat};

/// The forms by number of rows.
pub(super) fn functions(format: WeightFormat) -> (OperandForm, &'static [TileFn]) {
    match format {
        WeightFormat::F32 => (OperandForm::F32, by_rows!(f32_rows: 1 2 3 4)),
        WeightFormat::Bf16 => (OperandForm::Widened, by_rows!(widened_rows: 1 2 3 4)),
        WeightFormat::Int8 | WeightFormat::Int8InEights => (OperandForm::Bytes, by_rows!(int8_rows: 1 2 3 4)),
    }
}

/// The form for 16-bit integers.
pub(super) fn int16() -> (OperandForm, &'static [TileFn]) {
    (OperandForm::Int16, by_rows!(int16_rows: 1 2 3 4))
}

/// Columns of one pass: what the registers of SSE2 and NEON hold for four rows.
const COLUMNS: usize = 8;

#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction, `mul_add` would be a library call.
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

// SAFETY of the blocks below: the caller of a `TileFn` promises that rows, panel and factors lie where the call says and that there
// is room for the sums; all reads are of `steps` steps of each.

unsafe fn f32_rows<const R: usize>(call: &TileCall<'_>) {
    for from in (0..width(call)).step_by(COLUMNS) {
        // SAFETY: see above.
        let mut acc = unsafe { first_sums::<R>(call, from) };
        let mut part = Some(call);
        while let Some(call) = part {
            for step in 0..call.steps {
                // SAFETY: see above.
                let weights = unsafe { at(call, step, from).cast::<[f32; COLUMNS]>().read_unaligned() };
                for (r, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: see above.
                    let x = unsafe { call.a.add(r * call.stride).cast::<f32>().add(step).read_unaligned() };
                    for (acc, w) in acc.iter_mut().zip(weights) {
                        *acc = multiply_add(x, w, *acc);
                    }
                }
            }
            part = call.next;
        }
        // SAFETY: see above.
        unsafe { write_sums(call.out, from, &acc.map(|row| row.map(f32::to_bits))) };
    }
}

unsafe fn widened_rows<const R: usize>(call: &TileCall<'_>) {
    for from in (0..width(call)).step_by(COLUMNS) {
        // SAFETY: see above.
        let mut acc = unsafe { first_sums::<R>(call, from) };
        let mut part = Some(call);
        while let Some(call) = part {
            for step in 0..call.steps {
                // SAFETY: see above.
                let pairs = unsafe { at(call, step, from).cast::<[u32; COLUMNS]>().read_unaligned() };
                for (r, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: see above.
                    let x =
                        unsafe { call.a.add(r * call.stride).cast::<[f32; 2]>().add(step).read_unaligned() };
                    for (acc, pair) in acc.iter_mut().zip(pairs) {
                        *acc = multiply_add(x[0], f32::from_bits(pair << 16), *acc);
                        *acc = multiply_add(x[1], f32::from_bits(pair & 0xffff_0000), *acc);
                    }
                }
            }
            part = call.next;
        }
        // SAFETY: see above.
        unsafe { write_sums(call.out, from, &acc.map(|row| row.map(f32::to_bits))) };
    }
}

unsafe fn int16_rows<const R: usize>(call: &TileCall<'_>) {
    debug_assert!(call.accumulate);
    let factors = call.scaling.of_int16();
    for from in (0..width(call)).step_by(COLUMNS) {
        let mut acc = [[0i32; COLUMNS]; R];
        for step in 0..call.steps {
            // SAFETY: see above.
            let pairs = unsafe { at(call, step, from).cast::<[[i16; 2]; COLUMNS]>().read_unaligned() };
            for (r, acc) in acc.iter_mut().enumerate() {
                // SAFETY: see above.
                let x = unsafe { call.a.add(r * call.stride).cast::<[i16; 2]>().add(step).read_unaligned() };
                for (acc, pair) in acc.iter_mut().zip(pairs) {
                    // Of a row that is not finite, whose sums mean nothing, they may be too many.
                    let products = x[0] as i32 * pair[0] as i32 + x[1] as i32 * pair[1] as i32;
                    *acc = acc.wrapping_add(products);
                }
            }
        }
        // SAFETY: see above.
        unsafe {
            let mut sums = first_sums::<R>(call, from);
            for (r, (sums, acc)) in sums.iter_mut().zip(acc).enumerate() {
                let factor = factors.of_row(r * call.stride);
                for (sum, acc) in sums.iter_mut().zip(acc) {
                    *sum = multiply_add(acc as f32, factor, *sum);
                }
            }
            write_sums(call.out, from, &sums.map(|row| row.map(f32::to_bits)));
        }
    }
}

unsafe fn int8_rows<const R: usize>(call: &TileCall<'_>) {
    for from in (0..width(call)).step_by(COLUMNS) {
        let mut acc = [[0i32; COLUMNS]; R];
        let mut part = Some(call);
        while let Some(call) = part {
            for step in 0..call.steps {
                // SAFETY: see above.
                let quads = unsafe { at(call, step, from).cast::<[[i8; 4]; COLUMNS]>().read_unaligned() };
                for (r, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: see above.
                    let x = unsafe { call.a.add(r * call.stride).cast::<[u8; 4]>().add(step).read() };
                    for (acc, quad) in acc.iter_mut().zip(quads) {
                        for (x, w) in x.into_iter().zip(quad) {
                            *acc += x as i32 * w as i32;
                        }
                    }
                }
            }
            part = call.next;
        }
        // SAFETY: see above.
        unsafe { write_sums(call.out, from, &acc.map(|row| row.map(|v| v as u32))) };
    }
}

/// Columns that are there.
fn width(call: &TileCall<'_>) -> usize {
    if call.is_half() { PANEL / 2 } else { PANEL }
}

/// What the sums begin with.
///
/// # Safety
/// There are `R` rows of a panel where the sums go.
unsafe fn first_sums<const R: usize>(call: &TileCall<'_>, from: usize) -> [[f32; COLUMNS]; R] {
    let mut sums = [[0f32; COLUMNS]; R];
    if call.accumulate {
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller promises the rows.
            *sums = unsafe { call.out.add(r * PANEL + from).cast::<[f32; COLUMNS]>().read() };
        }
    }
    sums
}

/// Where a step's columns from `from` on lie.
#[inline(always)]
unsafe fn at(call: &TileCall<'_>, step: usize, from: usize) -> *const u8 {
    // SAFETY: the caller stays within the panel.
    unsafe { call.panel.add(step * call.panel_stride + from * size_of::<u32>()) }
}

/// # Safety
/// There is room for `R` rows of a panel.
unsafe fn write_sums<const R: usize>(out: *mut u32, from: usize, sums: &[[u32; COLUMNS]; R]) {
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: the caller promises the room.
        unsafe { out.add(r * PANEL + from).cast::<[u32; COLUMNS]>().write(*sums) };
    }
}
