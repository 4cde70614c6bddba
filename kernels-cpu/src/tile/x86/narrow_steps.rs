//! Steps of the products in 256-bit registers: `R` rows, `stride` bytes apart, by `C` registers of a panel, over `N` steps, which
//! lie as in a packed matrix where there are several.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::packed_matrix::STEP_BYTES;

/// Steps of one round of the innermost loop, which are written out.
pub(super) const UNROLLED: usize = 4;

// SAFETY of the functions below: callers promise the instructions, and that `N` steps of the rows and of `C` registers of the panel
// can be read from where `a` and `panel` point.

/// f32. All rows meet a register of the panel before the next one is read: three rows' values stay in registers, so that twelve sums
/// take seven loads.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn f32_steps<const R: usize, const C: usize, const N: usize>(
    a: *const u8,
    stride: usize,
    panel: *const u8,
    acc: &mut [[__m256; C]; R],
) {
    // SAFETY: see above.
    unsafe {
        if let (UNROLLED, Some(acc)) = (N, of_size(acc)) {
            return four_f32_steps(a, stride, panel, acc);
        }
        for step in 0..N {
            let (a, panel) = (a.add(step * 4), panel.add(step * STEP_BYTES));
            let mut x = [_mm256_setzero_ps(); R];
            for (r, x) in x.iter_mut().enumerate() {
                *x = _mm256_set1_ps(a.add(r * stride).cast::<f32>().read_unaligned());
            }
            for c in 0..C {
                let b = _mm256_loadu_ps(panel.add(c * 32).cast());
                for (acc, x) in acc.iter_mut().zip(x) {
                    acc[c] = _mm256_fmadd_ps(x, b, acc[c]);
                }
            }
        }
    }
}

/// [`f32_steps`] of three rows by a whole panel over four steps. Written out: it takes all sixteen registers, and the compiler runs
/// out of them.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn four_f32_steps(a: *const u8, stride: usize, panel: *const u8, acc: &mut [[__m256; 4]; 3]) {
    macro_rules! step {
        ($a:literal, $panel:literal) => {
            concat!(
                "vbroadcastss {x}, [{a} + ", $a, "]\n",
                "vbroadcastss {y}, [{a} + {stride} + ", $a, "]\n",
                "vbroadcastss {z}, [{a} + 2 * {stride} + ", $a, "]\n",
                step!(@ $panel, "0", "x0", "y0", "z0"),
                step!(@ $panel, "32", "x1", "y1", "z1"),
                step!(@ $panel, "64", "x2", "y2", "z2"),
                step!(@ $panel, "96", "x3", "y3", "z3"),
            )
        };
        (@ $panel:literal, $at:literal, $x:literal, $y:literal, $z:literal) => {
            concat!(
                "vmovups {b}, [{panel} + ", $panel, " + ", $at, "]\n",
                "vfmadd231ps {", $x, "}, {x}, {b}\n",
                "vfmadd231ps {", $y, "}, {y}, {b}\n",
                "vfmadd231ps {", $z, "}, {z}, {b}\n",
            )
        };
    }
    let [[x0, x1, x2, x3], [y0, y1, y2, y3], [z0, z1, z2, z3]] = acc;
    // SAFETY: callers have AVX2 and FMA; nothing is read but four steps of three rows and of the panel, and nothing is written.
    unsafe {
        asm!(
            step!("0", "0"),
            step!("4", "128"),
            step!("8", "256"),
            step!("12", "384"),
            a = in(reg) a,
            stride = in(reg) stride,
            panel = in(reg) panel,
            x0 = inout(ymm_reg) *x0,
            x1 = inout(ymm_reg) *x1,
            x2 = inout(ymm_reg) *x2,
            x3 = inout(ymm_reg) *x3,
            y0 = inout(ymm_reg) *y0,
            y1 = inout(ymm_reg) *y1,
            y2 = inout(ymm_reg) *y2,
            y3 = inout(ymm_reg) *y3,
            z0 = inout(ymm_reg) *z0,
            z1 = inout(ymm_reg) *z1,
            z2 = inout(ymm_reg) *z2,
            z3 = inout(ymm_reg) *z3,
            x = out(ymm_reg) _,
            y = out(ymm_reg) _,
            z = out(ymm_reg) _,
            b = out(ymm_reg) _,
            options(pure, readonly, nostack),
        );
    }
}

/// Pairs of bf16, widened to f32.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn widened_steps<const R: usize, const C: usize, const N: usize>(
    a: *const u8,
    stride: usize,
    panel: *const u8,
    acc: &mut [[__m256; C]; R],
) {
    // SAFETY: see above.
    unsafe {
        if let (UNROLLED, Some(acc)) = (N, of_size(acc)) {
            return four_widened_steps(a, stride, panel, acc);
        }
        for step in 0..N {
            let (a, panel) = (a.add(step * 8), panel.add(step * STEP_BYTES));
            let registers = step_of::<C>(panel);
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = a.add(r * stride).cast::<f32>();
                let (x0, x1) =
                    (_mm256_set1_ps(x.read_unaligned()), _mm256_set1_ps(x.add(1).read_unaligned()));
                for (acc, b) in acc.iter_mut().zip(registers) {
                    let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b));
                    let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
                    let odd = _mm256_castsi256_ps(_mm256_and_si256(b, high));
                    *acc = _mm256_fmadd_ps(x1, odd, _mm256_fmadd_ps(x0, even, *acc));
                }
            }
        }
    }
}

/// [`widened_steps`] of five rows by half a panel over four steps, written out as [`four_f32_steps`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn four_widened_steps(a: *const u8, stride: usize, panel: *const u8, acc: &mut [[__m256; 2]; 5]) {
    /// Of a pair, what is the second one's.
    static HIGH: [u32; 8] = [0xffff_0000; 8];
    macro_rules! step {
        ($a:literal, $panel:literal) => {
            concat!(
                "vmovups {odd0}, [{panel} + ", $panel, "]\n",
                "vmovups {odd1}, [{panel} + ", $panel, " + 32]\n",
                "vpslld {even0}, {odd0}, 16\n",
                "vpslld {even1}, {odd1}, 16\n",
                "vandps {odd0}, {odd0}, [{high}]\n",
                "vandps {odd1}, {odd1}, [{high}]\n",
                step!(@ "{a}", $a, "v0", "v1"),
                step!(@ "{a} + {stride}", $a, "w0", "w1"),
                step!(@ "{a} + 2 * {stride}", $a, "x0", "x1"),
                step!(@ "{d}", $a, "y0", "y1"),
                step!(@ "{d} + {stride}", $a, "z0", "z1"),
            )
        };
        (@ $row:literal, $a:literal, $low:literal, $high:literal) => {
            concat!(
                "vbroadcastss {first}, [", $row, " + ", $a, "]\n",
                "vbroadcastss {second}, [", $row, " + ", $a, " + 4]\n",
                "vfmadd231ps {", $low, "}, {first}, {even0}\n",
                "vfmadd231ps {", $high, "}, {first}, {even1}\n",
                "vfmadd231ps {", $low, "}, {second}, {odd0}\n",
                "vfmadd231ps {", $high, "}, {second}, {odd1}\n",
            )
        };
    }
    let [[v0, v1], [w0, w1], [x0, x1], [y0, y1], [z0, z1]] = acc;
    // SAFETY: callers have AVX2 and FMA; nothing is read but four steps of five rows and of half a panel, and nothing is written.
    unsafe {
        asm!(
            step!("0", "0"),
            step!("8", "128"),
            step!("16", "256"),
            step!("24", "384"),
            a = in(reg) a,
            d = in(reg) a.add(3 * stride),
            stride = in(reg) stride,
            panel = in(reg) panel,
            high = in(reg) HIGH.as_ptr(),
            v0 = inout(ymm_reg) *v0,
            v1 = inout(ymm_reg) *v1,
            w0 = inout(ymm_reg) *w0,
            w1 = inout(ymm_reg) *w1,
            x0 = inout(ymm_reg) *x0,
            x1 = inout(ymm_reg) *x1,
            y0 = inout(ymm_reg) *y0,
            y1 = inout(ymm_reg) *y1,
            z0 = inout(ymm_reg) *z0,
            z1 = inout(ymm_reg) *z1,
            even0 = out(ymm_reg) _,
            even1 = out(ymm_reg) _,
            odd0 = out(ymm_reg) _,
            odd1 = out(ymm_reg) _,
            first = out(ymm_reg) _,
            second = out(ymm_reg) _,
            options(pure, readonly, nostack),
        );
    }
}

/// Bytes, by AVX-VNNI's dot products.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
pub(super) unsafe fn int8_vnni_steps<const R: usize, const C: usize, const N: usize>(
    a: *const u8,
    stride: usize,
    panel: *const u8,
    acc: &mut [[__m256i; C]; R],
) {
    // SAFETY: see above.
    unsafe {
        for step in 0..N {
            let registers = step_of::<C>(panel.add(step * STEP_BYTES));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = a.add(r * stride + step * 4).cast::<i32>().read_unaligned();
                for (acc, b) in acc.iter_mut().zip(registers) {
                    *acc = _mm256_dpbusd_avx_epi32(*acc, _mm256_set1_epi32(x), b);
                }
            }
        }
    }
}

/// Bytes of which eight products fit 16 bits (`int8_row`): those of four steps by a pair of inputs each.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn int8_steps<const R: usize, const C: usize, const N: usize>(
    a: *const u8,
    stride: usize,
    panel: *const u8,
    acc: &mut [[__m256i; C]; R],
) {
    // SAFETY: see above.
    unsafe {
        if N == UNROLLED {
            return four_int8_steps::<R, C, true>(a, stride, (panel, STEP_BYTES), acc);
        }
        let ones = _mm256_set1_epi16(1);
        for step in 0..N {
            let registers = step_of::<C>(panel.add(step * STEP_BYTES));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm256_set1_epi32(a.add(r * stride + step * 4).cast::<i32>().read_unaligned());
                for (acc, b) in acc.iter_mut().zip(registers) {
                    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(_mm256_maddubs_epi16(x, b), ones));
                }
            }
        }
    }
}

/// [`int8_steps`] over four steps that lie `apart` bytes apart.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn four_spread_int8_steps<const R: usize, const C: usize>(
    a: *const u8,
    stride: usize,
    (panel, apart): (*const u8, usize),
    acc: &mut [[__m256i; C]; R],
) {
    // SAFETY: see above.
    unsafe { four_int8_steps::<R, C, false>(a, stride, (panel, apart), acc) };
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn four_int8_steps<const R: usize, const C: usize, const PACKED: bool>(
    a: *const u8,
    stride: usize,
    (panel, apart): (*const u8, usize),
    acc: &mut [[__m256i; C]; R],
) {
    let ones = _mm256_set1_epi16(1);
    for (r, acc) in acc.iter_mut().enumerate() {
        let acc = std::array::from_mut(acc);
        // SAFETY: see above.
        unsafe {
            let a = a.add(r * stride);
            if let Some([acc]) = of_size(acc) {
                if PACKED {
                    four_by_whole(a, panel, ones, acc);
                } else {
                    four_by_whole_spread(a, panel, apart, ones, acc);
                }
            } else if let Some([acc]) = of_size(acc) {
                four_by_three_spread(a, panel, apart, ones, acc);
            } else if let Some([acc]) = of_size(acc) {
                four_by_two_spread(a, panel, apart, ones, acc);
            } else if let Some([acc]) = of_size(acc) {
                four_by_one_spread(a, panel, apart, ones, acc);
            } else {
                unreachable!("a panel has one to four registers");
            }
        }
    }
}

/// One row of [`four_int8_steps`], added up in 16 bits. Written out, because a panel's registers are to be read where they are used,
/// which takes no instruction of its own, and because the compiler runs out of registers.
macro_rules! four_int8_steps {
    ($name:ident: [$($apart:ident)?], [$second:literal, $third:literal, $fourth:literal], $registers:literal,
        $($sum:ident at $at:literal),*) => {
        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn $name(
            a: *const u8, panel: *const u8, $($apart: usize,)? ones: __m256i, acc: &mut [__m256i; $registers],
        ) {
            let [$($sum),*] = acc;
            // SAFETY: callers have AVX2; nothing is read but four steps of the row and of the panel, and nothing is written.
            unsafe {
                asm!(
                    "vpbroadcastd {x0}, [{a}]",
                    "vpbroadcastd {x1}, [{a} + 4]",
                    "vpbroadcastd {x2}, [{a} + 8]",
                    "vpbroadcastd {x3}, [{a} + 12]",
                    $(
                        concat!("vpmaddubsw {t}, {x0}, [{panel} + ", $at, "]"),
                        concat!("vpmaddubsw {u}, {x1}, [", $second, " + ", $at, "]"),
                        "vpaddw {t}, {t}, {u}",
                        concat!("vpmaddubsw {u}, {x2}, [", $third, " + ", $at, "]"),
                        "vpaddw {t}, {t}, {u}",
                        concat!("vpmaddubsw {u}, {x3}, [", $fourth, " + ", $at, "]"),
                        "vpaddw {t}, {t}, {u}",
                        "vpmaddwd {t}, {t}, {ones}",
                        concat!("vpaddd {", stringify!($sum), "}, {", stringify!($sum), "}, {t}"),
                    )*
                    a = in(reg) a,
                    panel = in(reg) panel,
                    $(
                        $apart = in(reg) $apart,
                        last = in(reg) panel.add(3 * $apart),
                    )?
                    ones = in(ymm_reg) ones,
                    $($sum = inout(ymm_reg) *$sum,)*
                    x0 = out(ymm_reg) _,
                    x1 = out(ymm_reg) _,
                    x2 = out(ymm_reg) _,
                    x3 = out(ymm_reg) _,
                    t = out(ymm_reg) _,
                    u = out(ymm_reg) _,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
        }
    };
}

four_int8_steps!(
    four_by_whole: [], ["{panel} + 128", "{panel} + 256", "{panel} + 384"], 4,
    s0 at "0", s1 at "32", s2 at "64", s3 at "96"
);
four_int8_steps!(
    four_by_whole_spread: [apart], ["{panel} + {apart}", "{panel} + 2 * {apart}", "{last}"], 4,
    s0 at "0", s1 at "32", s2 at "64", s3 at "96"
);
four_int8_steps!(
    four_by_three_spread: [apart], ["{panel} + {apart}", "{panel} + 2 * {apart}", "{last}"], 3,
    s0 at "0", s1 at "32", s2 at "64"
);
four_int8_steps!(
    four_by_two_spread: [apart], ["{panel} + {apart}", "{panel} + 2 * {apart}", "{last}"], 2,
    s0 at "0", s1 at "32"
);
four_int8_steps!(
    four_by_one_spread: [apart], ["{panel} + {apart}", "{panel} + 2 * {apart}", "{last}"], 1,
    s0 at "0"
);

/// Sums of `R` rows by `C` registers as what they are where there are so many.
#[inline]
fn of_size<T, const R: usize, const C: usize, const ROWS: usize, const REGISTERS: usize>(
    acc: &mut [[T; C]; R],
) -> Option<&mut [[T; REGISTERS]; ROWS]> {
    // SAFETY: an array and its like of the same lengths.
    (R == ROWS && C == REGISTERS).then(|| unsafe { &mut *std::ptr::from_mut(acc).cast() })
}

/// The `C` registers of a step of a panel.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn step_of<const C: usize>(panel: *const u8) -> [__m256i; C] {
    let mut step = [_mm256_setzero_si256(); C];
    for (c, register) in step.iter_mut().enumerate() {
        // SAFETY: see above.
        *register = unsafe { _mm256_loadu_si256(panel.add(c * 32).cast()) };
    }
    step
}
