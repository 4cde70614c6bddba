//! The sums of a tile, and how they become f32.

use super::shrink::Hidden;
use crate::packed_matrix::PANEL;
use crate::target::{LANES, Target};

/// The sums of some rows and where their results go.
pub(super) struct Rows<O> {
    /// `[rows, PANEL]`: f32, or i32 for int8 until they are [settled](settle).
    pub sums: *mut u32,
    /// How many.
    pub count: usize,
    /// The first, counted from the call's first row.
    pub first: usize,
    /// For int8, by row: scale and scale times the byte of zero.
    pub scales: *const [f32; 2],
    /// `A x` of these rows.
    pub hidden: Hidden,
    /// Where the first row's first column of the layer lies, and values from row to row.
    pub out: (*mut O, usize),
}

/// The scales of a panel's weights, and its scales times sums.
pub(super) type PanelScales<'a> = (&'a [f32], &'a [f32]);

/// Makes f32 of the sums of some rows, where they lie, once: with `scales` they are integers. Times the gain.
///
/// # Safety
/// Sums and scales of rows lie where `rows` says.
#[inline(always)]
pub(super) unsafe fn settle<I: Target, O>(
    rows: &Rows<O>,
    scales: Option<PanelScales<'_>>,
    gain: Option<&[f32; PANEL]>,
) {
    // SAFETY: as the caller promises.
    unsafe {
        match (scales, gain) {
            (None, None) => {}
            // What is common has a loop of its own, in which nothing is asked.
            (Some(scales), None) => settle_each::<I, O>(rows, Some(scales), None),
            (scales, gain) => settle_each::<I, O>(rows, scales, gain),
        }
    }
}

/// # Safety
/// As for [`settle`].
#[inline(always)]
unsafe fn settle_each<I: Target, O>(
    rows: &Rows<O>,
    scales: Option<PanelScales<'_>>,
    gain: Option<&[f32; PANEL]>,
) {
    // No closure below: see `linear.rs`.
    let (mut of_weights, mut totals, mut gains) =
        ([I::splat(0.0); 2], [I::splat(0.0); 2], [I::splat(1.0); 2]);
    if let Some(scales) = scales {
        (of_weights, totals) = (panel_of::<I>(scales.0), panel_of::<I>(scales.1));
    }
    if let Some(gain) = gain {
        gains = panel_of::<I>(gain);
    }
    for r in 0..rows.count {
        for c in 0..PANEL / LANES {
            // SAFETY: as the caller promises.
            unsafe {
                let sums = rows.sums.add(r * PANEL + c * LANES);
                let mut v = match scales {
                    None => I::load(sums.cast()),
                    Some(_) => from_integers::<I>(sums.cast(), *rows.scales.add(r), of_weights[c], totals[c]),
                };
                if gain.is_some() {
                    v = I::mul(v, gains[c]);
                }
                I::store(v, sums.cast());
            }
        }
    }
}

/// A panel's values.
#[inline(always)]
pub(super) fn panel_of<I: Target>(values: &[f32]) -> [I::Lanes; 2] {
    let (low, high) = (&values[..LANES], &values[LANES..PANEL]);
    // SAFETY: there are sixteen in each.
    unsafe { [I::load(low.as_ptr()), I::load(high.as_ptr())] }
}

/// Sixteen sums of products of a row's bytes with 8-bit weights as f32: `row` has the row's scale and its scale times the byte of
/// zero, `scales` and `totals` are the weights' scales and scales times sums.
///
/// # Safety
/// Sixteen sums lie there.
#[inline(always)]
pub(super) unsafe fn from_integers<I: Target>(
    sums: *const i32,
    [scale, zero]: [f32; 2],
    scales: I::Lanes,
    totals: I::Lanes,
) -> I::Lanes {
    let weights = I::mul(I::splat(scale), scales);
    let offset = I::mul(I::splat(-zero), totals);
    // SAFETY: as the caller promises.
    I::fma(unsafe { I::load_i32(sums) }, weights, offset)
}
