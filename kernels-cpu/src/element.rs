//! The dtypes in which activations lie between ops.

use half::bf16;

use crate::packed_matrix::WeightFormat;
use crate::target::{Extremes, LANES, Target};

/// A dtype of activations: `f32` or `bf16`. Kernels compute in f32 whatever it is.
pub trait Element: Copy + Default + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// The format of a weight of such values.
    const FORMAT: WeightFormat;
    /// Whether a relative error of 1e-4 is lost in this dtype's rounding.
    const COARSE: bool;
    /// Sixteen values.
    ///
    /// # Safety
    /// They lie there.
    unsafe fn load<I: Target>(from: *const Self) -> I::Lanes;
    /// Sixteen values, rounded.
    ///
    /// # Safety
    /// There is room.
    unsafe fn store<I: Target>(lanes: I::Lanes, to: *mut Self);
    /// What `count` values, a multiple of sixteen, lie between, and whether all are finite.
    ///
    /// # Safety
    /// They lie there.
    unsafe fn extremes<I: Target>(from: *const Self, count: usize) -> Extremes;
    /// The value in f32.
    fn to_f32(self) -> f32;
    /// The nearest value.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const FORMAT: WeightFormat = WeightFormat::F32;
    const COARSE: bool = false;
    #[inline(always)]
    unsafe fn load<I: Target>(from: *const f32) -> I::Lanes {
        // SAFETY: as the caller promises.
        unsafe { I::load(from) }
    }
    #[inline(always)]
    unsafe fn store<I: Target>(lanes: I::Lanes, to: *mut f32) {
        // SAFETY: as the caller promises.
        unsafe { I::store(lanes, to) }
    }
    #[inline(always)]
    unsafe fn extremes<I: Target>(from: *const f32, count: usize) -> Extremes {
        // SAFETY: as the caller promises.
        unsafe { extremes_by_lanes::<I, f32>(from, count) }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> f32 {
        value
    }
}

impl Element for bf16 {
    const FORMAT: WeightFormat = WeightFormat::Bf16;
    const COARSE: bool = true;
    #[inline(always)]
    unsafe fn load<I: Target>(from: *const bf16) -> I::Lanes {
        // SAFETY: as the caller promises.
        unsafe { I::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<I: Target>(lanes: I::Lanes, to: *mut bf16) {
        // SAFETY: as the caller promises.
        unsafe { I::store_bf16(lanes, to) }
    }
    #[inline(always)]
    unsafe fn extremes<I: Target>(from: *const bf16, count: usize) -> Extremes {
        // SAFETY: as the caller promises.
        unsafe { I::extremes_of_bf16(from, count) }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> bf16 {
        bf16::from_bits(crate::target::round_to_bf16(value))
    }
}

/// The first `count` values at `from` and zeros, at most sixteen.
///
/// # Safety
/// `count` values lie there.
#[inline(always)]
pub(crate) unsafe fn load_part<I: Target, E: Element>(from: *const E, count: usize) -> I::Lanes {
    let mut values = [E::default(); LANES];
    // SAFETY: the caller promises `count` values, and the array has place for sixteen.
    unsafe {
        std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count.min(LANES));
        E::load::<I>(values.as_ptr())
    }
}

/// The first `count` lanes to `to`, at most sixteen.
///
/// # Safety
/// There is room for `count` values.
#[inline(always)]
pub(crate) unsafe fn store_part<I: Target, E: Element>(lanes: I::Lanes, to: *mut E, count: usize) {
    let mut values = [E::default(); LANES];
    // SAFETY: the array has place for sixteen, and the caller promises room for `count`.
    unsafe {
        E::store::<I>(lanes, values.as_mut_ptr());
        std::ptr::copy_nonoverlapping(values.as_ptr(), to, count.min(LANES));
    }
}

/// [`Extremes`] of `count` values, a multiple of sixteen.
///
/// # Safety
/// They lie there.
#[inline(always)]
pub(crate) unsafe fn extremes_by_lanes<I: Target, E: Element>(from: *const E, count: usize) -> Extremes {
    let (mut low, mut high) = (I::splat(0.0), I::splat(0.0));
    // Zero as long as all is finite: the extremes alone do not show a NaN.
    let mut flaw = I::splat(0.0);
    for at in (0..count).step_by(LANES) {
        // SAFETY: as the caller promises.
        let v = unsafe { E::load::<I>(from.add(at)) };
        (low, high) = (I::min(low, v), I::max(high, v));
        flaw = I::fma(v, I::splat(0.0), flaw);
    }
    let lowest = -I::highest(I::sub(I::splat(0.0), low));
    Extremes { lowest, highest: I::highest(high), finite: I::sum(flaw) == 0.0 }
}
