//! The sums of a tile, and how they become f32.

use super::shrink::Hidden;
use crate::packed_matrix::PANEL;
use crate::target::{LANES, Target};

/// The sums of some rows and where their results go.
pub(super) struct Rows<O> {
    /// `[rows, PANEL]`: f32, or i32 for int8.
    pub sums: *mut u32,
    /// How many.
    pub count: usize,
    /// The first, counted from the call's first row.
    pub first: usize,
    /// For int8, by row: scale and scale times the byte of zero.
    pub scales: *const [f32; 2],
    /// `A x` of these rows.
    pub hidden: Hidden,
    /// `B h` of these rows where it could not be added to the sums: these are integers, or get a gain first.
    pub apart: Option<Apart>,
    /// Where the first row's first column of the layer lies, and values from row to row.
    pub out: (*mut O, usize),
}

/// Sums by themselves.
#[derive(Clone, Copy)]
pub(super) struct Apart {
    /// `[rows, PANEL]`: f32, or i32 where there are factors.
    pub sums: *const u32,
    /// By row, what its integers are to be multiplied by.
    pub factors: Option<*const f32>,
}

impl Apart {
    /// `v` and sixteen of the sums of row `r`, from column `column` of the panel on.
    ///
    /// # Safety
    /// They lie there.
    #[inline(always)]
    pub unsafe fn add_to<I: Target>(&self, v: I::Lanes, r: usize, column: usize) -> I::Lanes {
        // SAFETY: as the caller promises.
        unsafe {
            let sums = self.sums.add(r * PANEL + column);
            match self.factors {
                None => I::add(v, I::load(sums.cast())),
                Some(factors) => I::fma(I::load_i32(sums.cast()), I::splat(*factors.add(r)), v),
            }
        }
    }
}

/// The sums of row `r` as f32, times the gain; with `scales` they are integers.
///
/// # Safety
/// Sums and scales lie where `rows` says.
#[inline(always)]
pub(super) unsafe fn sums_of<I: Target, O>(
    rows: &Rows<O>,
    r: usize,
    scales: Option<(&[f32], &[f32])>,
    gain: Option<&[f32; PANEL]>,
) -> [I::Lanes; 2] {
    // SAFETY: as the caller promises.
    unsafe {
        let sums = rows.sums.add(r * PANEL);
        let mut v = [I::splat(0.0); 2];
        for (c, v) in v.iter_mut().enumerate() {
            let sums = sums.add(c * LANES);
            *v = match scales {
                None => I::load(sums.cast()),
                Some((scales, totals)) => {
                    let row = *rows.scales.add(r);
                    let (scales, totals) = (scales.as_ptr().add(c * LANES), totals.as_ptr().add(c * LANES));
                    from_integers::<I>(sums.cast(), row, scales, totals)
                }
            };
            if let Some(gain) = gain {
                *v = I::mul(*v, I::load(gain.as_ptr().add(c * LANES)));
            }
        }
        v
    }
}

/// Sixteen sums of products of a row's bytes with 8-bit weights as f32: `row` has the row's scale and its scale times the byte of
/// zero, `scales` and `totals` the weights' scales and scales times sums.
///
/// # Safety
/// Sixteen values lie at each.
#[inline(always)]
pub(super) unsafe fn from_integers<I: Target>(
    sums: *const i32,
    [scale, zero]: [f32; 2],
    scales: *const f32,
    totals: *const f32,
) -> I::Lanes {
    // SAFETY: as the caller promises.
    unsafe {
        let weights = I::mul(I::splat(scale), I::load(scales));
        let offset = I::mul(I::splat(-zero), I::load(totals));
        I::fma(I::load_i32(sums), weights, offset)
    }
}
