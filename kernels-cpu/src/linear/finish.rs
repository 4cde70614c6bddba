//! The end of a panel's rows: sums become f32 and get bias, activation and residual.

use super::panel::{Effect, Panel};
use super::sums::{PanelScales, Rows, from_integers, panel_of, settle};
use crate::element::{Element, load_part, store_part};
use crate::epilogue::{Activation, activate};
use crate::packed_matrix::PANEL;
use crate::target::{LANES, Target};

impl<E: Element> Panel<'_, '_, E> {
    /// Makes f32 of the sums of some rows, once, times what an adapter has for a gain.
    ///
    /// # Safety
    /// Sums and scales lie where `rows` says.
    #[inline(always)]
    pub unsafe fn settle<I: Target, O>(&self, rows: &Rows<O>, effect: Option<&Effect>) {
        let gain = effect.and_then(|e| e.gain.as_ref());
        // SAFETY: as the caller promises.
        unsafe { settle::<I, O>(rows, self.unsettled, gain) };
    }

    /// Makes results of the sums of some rows, which are settled or, without an adapter, as the product left them.
    ///
    /// # Safety
    /// Sums and scales lie where `rows` says, and there is room for the results.
    #[inline(always)]
    pub unsafe fn finish<I: Target, O: Element>(
        &self,
        rows: &Rows<O>,
        effect: Option<&Effect>,
        settled: bool,
    ) {
        let bias = effect.map_or(self.bias, |e| &e.bias);
        let scales = self.unsettled.filter(|_| !settled);
        // Results that are rounded to 8 bits, here or when they are quantised, need no finer activation.
        let coarse = E::COARSE || self.scales.is_some();
        // SAFETY: as the caller promises.
        unsafe {
            if self.width < PANEL {
                settle::<I, O>(rows, scales, None);
                return self.write_edge::<I, O>(rows, bias, coarse);
            }
            // What is common has a loop of its own, in which neither activation nor scales are asked for.
            match (self.call.activation, scales) {
                (Activation::Identity, None) => {
                    self.write::<I, O>(rows, bias, (Activation::Identity, coarse), None)
                }
                (Activation::Identity, Some(scales)) => {
                    self.write::<I, O>(rows, bias, (Activation::Identity, coarse), Some(scales))
                }
                (Activation::Gelu, None) if coarse => {
                    self.write::<I, O>(rows, bias, (Activation::Gelu, true), None)
                }
                (Activation::Gelu, Some(scales)) => {
                    self.write::<I, O>(rows, bias, (Activation::Gelu, true), Some(scales))
                }
                (other, scales) => self.write::<I, O>(rows, bias, (other, coarse), scales),
            }
        }
    }

    /// Adds bias and residual, with the activation in between, to the sums of a whole panel, and writes the results.
    ///
    /// # Safety
    /// As for [`Self::finish`]; the sums are integers where there are `scales`, else f32.
    #[inline(always)]
    unsafe fn write<I: Target, O: Element>(
        &self,
        rows: &Rows<O>,
        bias: &[f32; PANEL],
        (activation, coarse): (Activation, bool),
        scales: Option<PanelScales<'_>>,
    ) {
        // No closure below: see `linear.rs`.
        let (mut of_weights, mut totals) = ([I::splat(0.0); 2], [I::splat(0.0); 2]);
        if let Some(scales) = scales {
            (of_weights, totals) = (panel_of::<I>(scales.0), panel_of::<I>(scales.1));
        }
        let bias = panel_of::<I>(bias);
        for r in 0..rows.count {
            // SAFETY: as the caller promises; there is as much of a residual as of results.
            unsafe {
                let (out, residual) = self.row_of(rows, r);
                for c in 0..PANEL / LANES {
                    let column = c * LANES;
                    let sums = rows.sums.add(r * PANEL + column);
                    let sums = match scales {
                        None => I::load(sums.cast()),
                        Some(_) => {
                            from_integers::<I>(sums.cast(), *rows.scales.add(r), of_weights[c], totals[c])
                        }
                    };
                    let mut v = activate::<I>(activation, coarse, I::add(sums, bias[c]));
                    if let Some(residual) = residual {
                        v = I::add(v, E::load::<I>(residual.add(column)));
                    }
                    O::store::<I>(v, out.add(column));
                }
            }
        }
    }

    /// The same for settled sums of a panel of which the layer has not all columns.
    ///
    /// # Safety
    /// As for [`Self::write`].
    #[inline(always)]
    unsafe fn write_edge<I: Target, O: Element>(&self, rows: &Rows<O>, bias: &[f32; PANEL], coarse: bool) {
        for (r, column) in (0..rows.count).flat_map(|r| [(r, 0), (r, LANES)]) {
            let width = self.width.saturating_sub(column).min(LANES);
            // SAFETY: as the caller promises; columns from the panel's width on are left alone.
            unsafe {
                let (out, residual) = self.row_of(rows, r);
                let sums = I::load(rows.sums.add(r * PANEL + column).cast());
                let sums = I::add(sums, I::load(bias[column..].as_ptr()));
                let mut v = activate::<I>(self.call.activation, coarse, sums);
                if let Some(residual) = residual {
                    v = I::add(v, load_part::<I, E>(residual.wrapping_add(column), width));
                }
                store_part::<I, O>(v, out.wrapping_add(column), width);
            }
        }
    }

    /// Where the results of a row of the panel go, and where what is added to them lies.
    ///
    /// # Safety
    /// The row is one of the call's.
    #[inline(always)]
    unsafe fn row_of<O>(&self, rows: &Rows<O>, r: usize) -> (*mut O, Option<*const E>) {
        let outputs = self.call.weight.outputs();
        // SAFETY: as the caller promises; there is as much of a residual as of results.
        unsafe {
            let residual =
                self.call.residual.map(|all| all.as_ptr().add((rows.first + r) * outputs + self.first));
            (rows.out.0.add(r * rows.out.1 + self.first), residual)
        }
    }
}
