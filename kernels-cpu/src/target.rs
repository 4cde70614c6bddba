//! What a kernel's body computes with while it is compiled for one instruction set: sixteen lanes of f32, in as many
//! registers as they take.

use half::bf16;

use crate::element::extremes_by_lanes;

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod laws;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Lanes of a reduction: one AVX-512 register, two AVX2 ones, four SSE or NEON ones.
pub const LANES: usize = 16;

/// Sixteen lanes and what can be done with them.
///
/// The methods are inlined into code that [`dispatch`] compiles for the instruction set; they are not called elsewhere.
/// `min` and `max` give `b` where either is NaN, as x86 does.
pub trait Target: Copy + 'static {
    /// Whether there are 32 registers of sixteen lanes.
    const WIDE: bool;
    /// Sixteen lanes.
    type Lanes: Copy;
    /// All lanes equal.
    fn splat(value: f32) -> Self::Lanes;
    /// Sixteen values from memory.
    ///
    /// # Safety
    /// They lie there.
    unsafe fn load(from: *const f32) -> Self::Lanes;
    /// Sixteen values to memory.
    ///
    /// # Safety
    /// There is room.
    unsafe fn store(lanes: Self::Lanes, to: *mut f32);
    /// Sixteen bf16 from memory.
    ///
    /// # Safety
    /// They lie there.
    unsafe fn load_bf16(from: *const bf16) -> Self::Lanes;
    /// Sixteen bf16 to memory, rounded to nearest, ties to even; NaN stays NaN, and denormals may become zero.
    ///
    /// # Safety
    /// There is room.
    unsafe fn store_bf16(lanes: Self::Lanes, to: *mut bf16);
    /// Sixteen integers from memory, as f32.
    ///
    /// # Safety
    /// They lie there.
    unsafe fn load_i32(from: *const i32) -> Self::Lanes;
    /// Sixteen values, rounded to nearest and cut to 0..=255, to memory.
    ///
    /// # Safety
    /// There is room.
    unsafe fn store_u8(lanes: Self::Lanes, to: *mut u8);
    /// Four times sixteen values as [`Self::store_u8`] writes them, one after the other; what is beyond 32 bits or no number becomes any.
    ///
    /// # Safety
    /// There is room.
    #[inline(always)]
    unsafe fn store_64_u8(lanes: [Self::Lanes; 4], to: *mut u8) {
        for (i, lanes) in lanes.into_iter().enumerate() {
            // SAFETY: as the caller promises.
            unsafe { Self::store_u8(lanes, to.add(i * LANES)) };
        }
    }
    /// What `count` bf16, a multiple of sixteen, lie between, and whether all are finite.
    ///
    /// # Safety
    /// They lie there.
    #[inline(always)]
    unsafe fn extremes_of_bf16(from: *const bf16, count: usize) -> Extremes {
        // SAFETY: as the caller promises.
        unsafe { extremes_by_lanes::<Self, bf16>(from, count) }
    }
    /// Writes sixteen values, rounded to the nearest 16-bit integer; what is beyond 32 bits or no number becomes any.
    ///
    /// # Safety
    /// There is room.
    unsafe fn store_i16(lanes: Self::Lanes, to: *mut i16);
    /// Of each of sixteen rows the sixteen words from word `first` on, which may lie on any address, to sixteen rows `stride` words apart:
    /// the first words of all, the second, and so on.
    ///
    /// # Safety
    /// They lie there, and there is room.
    #[inline(always)]
    unsafe fn transpose_words(rows: &[*const u32; LANES], first: usize, to: *mut u32, stride: usize) {
        for (j, row) in rows.iter().enumerate() {
            for s in 0..LANES {
                // SAFETY: as the caller promises.
                unsafe { *to.add(s * stride + j) = row.add(first + s).read_unaligned() };
            }
        }
    }
    /// `a + b`.
    fn add(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// `a - b`.
    fn sub(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// `a * b`.
    fn mul(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// `a / b`.
    fn div(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// `a * b + c`, fused where the target has it.
    fn fma(a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes;
    /// The lower of each.
    fn min(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// The higher of each.
    fn max(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// To the nearest integer, ties to even.
    fn round(a: Self::Lanes) -> Self::Lanes;
    /// `a * 2^n` for integral `n` from -126 to 127.
    fn times_two_to(a: Self::Lanes, n: Self::Lanes) -> Self::Lanes;
    /// `a`, but 0 where `x < limit`.
    fn zero_below(a: Self::Lanes, x: Self::Lanes, limit: f32) -> Self::Lanes;
    /// The sum over the lanes, as a tree.
    fn sum(a: Self::Lanes) -> f32;
    /// The highest lane.
    fn highest(a: Self::Lanes) -> f32;
    /// Asks for the cache line of an address, of which all will soon be written and another core may have it. There need be
    /// nothing.
    fn ask_to_write(line: *const u8);
}

/// What values and zero lie between.
#[derive(Clone, Copy)]
pub struct Extremes {
    /// The lowest of them.
    pub lowest: f32,
    /// The highest of them.
    pub highest: f32,
    /// Whether none is infinite or no number. Else the others say nothing.
    pub finite: bool,
}

/// The target's baseline, as plain loops that the compiler turns into what vectors there are (SSE2, NEON).
#[derive(Clone, Copy)]
pub(crate) struct Baseline;

type Array = [f32; LANES];

/// `f` in every lane.
#[inline(always)]
fn each(mut f: impl FnMut(usize) -> f32) -> Array {
    let mut out = [0f32; LANES];
    for (i, lane) in out.iter_mut().enumerate() {
        *lane = f(i);
    }
    out
}

// SAFETY of the blocks below: the callers promise sixteen values or room for them.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Target for Baseline {
    const WIDE: bool = false;
    type Lanes = Array;
    #[inline(always)]
    fn splat(value: f32) -> Array {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Array {
        unsafe { from.cast::<Array>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(lanes: Array, to: *mut f32) {
        unsafe { to.cast::<Array>().write_unaligned(lanes) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Array {
        let values = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        each(|i| f32::from_bits((values[i] as u32) << 16))
    }
    #[inline(always)]
    unsafe fn store_bf16(lanes: Array, to: *mut bf16) {
        let mut out = [0u16; LANES];
        for (out, lane) in out.iter_mut().zip(lanes) {
            *out = round_to_bf16(lane);
        }
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(out) }
    }
    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Array {
        let values = unsafe { from.cast::<[i32; LANES]>().read_unaligned() };
        each(|i| values[i] as f32)
    }
    #[inline(always)]
    unsafe fn store_u8(lanes: Array, to: *mut u8) {
        let mut out = [0u8; LANES];
        for (out, lane) in out.iter_mut().zip(Self::round(lanes)) {
            *out = lane as u8;
        }
        unsafe { to.cast::<[u8; LANES]>().write_unaligned(out) }
    }
    #[inline(always)]
    unsafe fn store_i16(lanes: Array, to: *mut i16) {
        let out = Self::round(lanes).map(|lane| lane as i16);
        unsafe { to.cast::<[i16; LANES]>().write_unaligned(out) }
    }
    #[inline(always)]
    fn add(a: Array, b: Array) -> Array {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(a: Array, b: Array) -> Array {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(a: Array, b: Array) -> Array {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(a: Array, b: Array) -> Array {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(a: Array, b: Array, c: Array) -> Array {
        // Without the instruction, `mul_add` would be a library call.
        const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        each(|i| if FUSED { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] })
    }
    #[inline(always)]
    fn min(a: Array, b: Array) -> Array {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn max(a: Array, b: Array) -> Array {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn round(a: Array) -> Array {
        // Adding 1.5 * 2^23 leaves no place for a fraction; larger values have none.
        const SHIFT: f32 = 12_582_912.0;
        each(|i| if a[i].abs() < 4_194_304.0 { (a[i] + SHIFT) - SHIFT } else { a[i] })
    }
    #[inline(always)]
    fn times_two_to(a: Array, n: Array) -> Array {
        each(|i| a[i] * f32::from_bits(((n[i] as i32).wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    fn zero_below(a: Array, x: Array, limit: f32) -> Array {
        each(|i| if x[i] < limit { 0.0 } else { a[i] })
    }
    #[inline(always)]
    fn sum(mut a: Array) -> f32 {
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                a[i] += a[i + half];
            }
            half /= 2;
        }
        a[0]
    }
    #[inline(always)]
    fn highest(a: Array) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |h, v| if h > v { h } else { v })
    }
    #[inline(always)]
    fn ask_to_write(_: *const u8) {}
}

/// The nearest bf16, ties to even; NaN becomes the quiet NaN.
#[inline(always)]
pub(crate) fn round_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() { 0x7fc0 } else { (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16 }
}

/// Defines `fn name(isa, args..)` that runs the `#[inline(always)]` generic `body::<Target, ..>(args..)` compiled for `isa`.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$($param:ident : $bound:path),*>)?
        ($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$meta])*
        $vis fn $name $(<$($param: $bound),*>)? (isa: $crate::isa::Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$($param: $bound),*>)? ($($arg: $ty),*) {
                $body::<$crate::target::Avx2 $($(, $param)*)?>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512 $(<$($param: $bound),*>)? ($($arg: $ty),*) {
                $body::<$crate::target::Avx512<false> $($(, $param)*)?>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
            fn avx512_bf16 $(<$($param: $bound),*>)? ($($arg: $ty),*) {
                $body::<$crate::target::Avx512<true> $($(, $param)*)?>($($arg),*)
            }
            match isa {
                // SAFETY: each public kernel has called `Isa::require`, so the machine has the instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx2 | $crate::isa::Isa::AvxVnni => unsafe { avx2($($arg),*) },
                // SAFETY: as above; the machine has what was detected.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 | $crate::isa::Isa::Amx if is_x86_feature_detected!("avx512bf16") => unsafe {
                    avx512_bf16($($arg),*)
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 | $crate::isa::Isa::Amx => unsafe { avx512($($arg),*) },
                _ => $body::<$crate::target::Baseline $($(, $param)*)?>($($arg),*),
            }
        }
    };
}
pub(crate) use dispatch;
