//! Instruction sets and the choice among them at run time.

use std::sync::OnceLock;

use crate::lanes::LANES;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Whatever the target's baseline is.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// The instruction sets of this machine, the widest last.
    pub fn available() -> Vec<Isa> {
        [Isa::Scalar, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The one in use: the widest, or the one that `POLYLORA_CPU_ISA` (`scalar`, `avx2`, `avx512`) names, when the
    /// machine has it. Which one it is stands in the device's name (`cpu (avx512)`).
    pub fn current() -> Isa {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let asked = std::env::var("POLYLORA_CPU_ISA").ok();
            let forced = asked.as_deref().and_then(Isa::parse).filter(|isa| isa.is_available());
            forced.or_else(|| Isa::available().pop()).unwrap_or(Isa::Scalar)
        })
    }

    /// Its name, as `POLYLORA_CPU_ISA` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Refuses an instruction set that this machine lacks: what makes the kernels' safe functions sound.
    pub(crate) fn require(self) {
        assert!(self.is_available(), "this machine has no {}", self.name());
    }

    fn parse(name: &str) -> Option<Isa> {
        [Isa::Scalar, Isa::Avx2, Isa::Avx512].into_iter().find(|isa| isa.name() == name)
    }

    fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }
}

/// What a kernel's body may use while it is compiled for one instruction set: sixteen lanes, in as many registers as
/// they take.
///
/// The methods are inlined into code compiled for the instruction set by [`dispatch`]; they are not called elsewhere.
pub(crate) trait Target: Copy + 'static {
    /// Whether `f32::mul_add` is one instruction; where it is not, it would be a library call.
    const FMA: bool;
    /// Whether there are 32 registers of sixteen lanes.
    const WIDE: bool;
    /// Sixteen lanes.
    type Lanes: Copy;
    /// All lanes equal.
    fn splat(value: f32) -> Self::Lanes;
    /// From memory.
    fn load(from: &[f32; LANES]) -> Self::Lanes;
    /// To memory.
    fn store(lanes: Self::Lanes, to: &mut [f32; LANES]);
    /// `a * b + c` in each lane.
    fn fma_lanes(a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes;
}

/// The target's baseline.
#[derive(Clone, Copy)]
pub(crate) struct Baseline;
impl Target for Baseline {
    const FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    const WIDE: bool = false;
    type Lanes = [f32; LANES];
    #[inline(always)]
    fn splat(value: f32) -> Self::Lanes {
        [value; LANES]
    }
    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self::Lanes {
        *from
    }
    #[inline(always)]
    fn store(lanes: Self::Lanes, to: &mut [f32; LANES]) {
        *to = lanes;
    }
    #[inline(always)]
    fn fma_lanes(a: Self::Lanes, b: Self::Lanes, mut c: Self::Lanes) -> Self::Lanes {
        for i in 0..LANES {
            c[i] = if Self::FMA { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] };
        }
        c
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// The x86 targets. SAFETY of every block below: the methods are inlined into functions that [`dispatch`] compiles for
/// the instruction set and enters only where it was detected; loads and stores go through references to 16 values.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::undocumented_unsafe_blocks)]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, Target};

    /// AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;
    impl Target for Avx2 {
        const FMA: bool = true;
        const WIDE: bool = false;
        type Lanes = (__m256, __m256);
        #[inline(always)]
        fn splat(value: f32) -> Self::Lanes {
            let v = unsafe { _mm256_set1_ps(value) };
            (v, v)
        }
        #[inline(always)]
        fn load(from: &[f32; LANES]) -> Self::Lanes {
            unsafe { (_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))) }
        }
        #[inline(always)]
        fn store(lanes: Self::Lanes, to: &mut [f32; LANES]) {
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), lanes.0);
                _mm256_storeu_ps(to.as_mut_ptr().add(8), lanes.1);
            }
        }
        #[inline(always)]
        fn fma_lanes(a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes {
            unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
        }
    }

    /// AVX-512.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;
    impl Target for Avx512 {
        const FMA: bool = true;
        const WIDE: bool = true;
        type Lanes = __m512;
        #[inline(always)]
        fn splat(value: f32) -> Self::Lanes {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        fn load(from: &[f32; LANES]) -> Self::Lanes {
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn store(lanes: Self::Lanes, to: &mut [f32; LANES]) {
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), lanes) }
        }
        #[inline(always)]
        fn fma_lanes(a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
    }
}

/// Defines `fn name(isa, args..)` that runs the `#[inline(always)]` generic `body::<Target>(args..)` compiled for `isa`.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) {
                $body::<$crate::isa::Avx2>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $ty),*) {
                $body::<$crate::isa::Avx512>($($arg),*)
            }
            match isa {
                // SAFETY: each public kernel has called `Isa::require`, so the machine has the instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                _ => $body::<$crate::isa::Baseline>($($arg),*),
            }
        }
    };
}
pub(crate) use dispatch;
