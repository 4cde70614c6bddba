//! The products in AVX registers: AVX2 (6 rows by 16 columns at a time) and AVX-512 (14 or 12 rows by the whole panel, or
//! half of one).

use std::arch::x86_64::*;

use super::{OperandForm, TileCall, TileFn, by_rows};
use crate::isa::Isa;
use crate::packed_matrix::{PANEL, WeightFormat};

/// How the operand lies, the functions by number of rows, and what the instructions are called.
type Form = (OperandForm, &'static [TileFn], &'static str);

/// The forms that `isa` has by number of rows.
pub(super) fn functions(isa: Isa, format: WeightFormat) -> Option<Form> {
    let wide = isa >= Isa::Avx512;
    let (vnni, bf16) = (is_x86_feature_detected!("avx512vnni"), is_x86_feature_detected!("avx512bf16"));
    Some(match (isa, format) {
        (Isa::Scalar, _) => return None,
        (_, WeightFormat::F32) if wide => {
            (OperandForm::F32, by_rows!(f32_avx512: 1 2 3 4 5 6 7 8 9 10 11 12 13 14), "AVX-512")
        }
        (_, WeightFormat::F32) => (OperandForm::F32, by_rows!(f32_avx2: 1 2 3 4 5 6), "AVX2"),
        (_, WeightFormat::Bf16) if wide && bf16 => {
            (OperandForm::Bf16, by_rows!(bf16_avx512: 1 2 3 4 5 6 7 8 9 10 11 12 13 14), "AVX-512 BF16")
        }
        (_, WeightFormat::Bf16) if wide => (
            OperandForm::Widened,
            by_rows!(widened_avx512: 1 2 3 4 5 6 7 8 9 10 11 12),
            "AVX-512, widened to f32",
        ),
        (_, WeightFormat::Bf16) => {
            (OperandForm::Widened, by_rows!(widened_avx2: 1 2 3 4 5), "AVX2, widened to f32")
        }
        (_, WeightFormat::Int8) if wide && vnni => {
            (OperandForm::Bytes, by_rows!(int8_avx512: 1 2 3 4 5 6 7 8 9 10 11 12 13 14), "AVX-512 VNNI")
        }
        (Isa::AvxVnni, WeightFormat::Int8) => {
            (OperandForm::Bytes, by_rows!(int8_avxvnni: 1 2 3 4 5 6), "AVX-VNNI")
        }
        (_, WeightFormat::Int8) => (OperandForm::Bytes, by_rows!(int8_avx2: 1 2 3 4), "AVX2"),
    })
}

// SAFETY of the functions below: the caller of a `TileFn` promises the instructions, that rows and panel lie where the call
// says and that there is room for the sums; all reads are within `steps` steps of each.

/// A form with 512-bit registers: the whole panel's width or half of it, one step an iteration.
macro_rules! wide {
    ($name:ident, $features:literal, $zero:expr, |$acc:ident, $x:ident, $b:ident| $dot:expr, $load:expr, $store:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize>(call: &TileCall<'_>) {
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn columns<const R: usize, const C: usize, const ADD: bool>(call: &TileCall<'_>) {
                // SAFETY: see above.
                unsafe {
                    let mut acc = [[$zero; C]; R];
                    if ADD {
                        for (r, acc) in acc.iter_mut().enumerate() {
                            for (c, acc) in acc.iter_mut().enumerate() {
                                *acc = $load(call.out.add(r * PANEL + c * 16).cast());
                            }
                        }
                    }
                    let mut part = Some(call);
                    while let Some(call) = part {
                        let (mut a, mut panel) = (call.a, call.panel);
                        for _ in 0..call.steps {
                            let mut b = [_mm512_setzero_si512(); C];
                            for (c, b) in b.iter_mut().enumerate() {
                                *b = _mm512_loadu_si512(panel.add(c * 64).cast());
                            }
                            for (r, acc) in acc.iter_mut().enumerate() {
                                let $x =
                                    _mm512_set1_epi32(a.add(r * call.stride).cast::<i32>().read_unaligned());
                                for (acc, $b) in acc.iter_mut().zip(b) {
                                    let $acc = *acc;
                                    *acc = $dot;
                                }
                            }
                            a = a.add(4);
                            panel = panel.wrapping_add(call.panel_stride);
                        }
                        part = call.next;
                    }
                    // By reference: by value the sums would go through memory once more.
                    for (r, acc) in acc.iter().enumerate() {
                        for (c, acc) in acc.iter().enumerate() {
                            $store(call.out.add(r * PANEL + c * 16), *acc);
                        }
                    }
                }
            }
            // SAFETY: see above.
            unsafe {
                match (call.half, call.accumulate) {
                    (false, false) => columns::<R, 2, false>(call),
                    (false, true) => columns::<R, 2, true>(call),
                    (true, false) => columns::<R, 1, false>(call),
                    (true, true) => columns::<R, 1, true>(call),
                }
            }
        }
    };
}

wide!(
    f32_avx512,
    "avx512f",
    _mm512_setzero_ps(),
    |acc, x, b| _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(b), acc),
    _mm512_loadu_ps,
    store_f32
);
wide!(
    bf16_avx512,
    "avx512f,avx512bf16",
    _mm512_setzero_ps(),
    |acc, x, b| _mm512_dpbf16_ps(acc, as_bf16(x), as_bf16(b)),
    _mm512_loadu_ps,
    store_f32
);
wide!(
    int8_avx512,
    "avx512f,avx512vnni",
    _mm512_setzero_si512(),
    |acc, x, b| _mm512_dpbusd_epi32(acc, x, b),
    _mm512_loadu_si512,
    store_i32
);

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store_f32(to: *mut u32, sums: __m512) {
    // SAFETY: see above.
    unsafe { _mm512_storeu_ps(to.cast(), sums) }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store_i32(to: *mut u32, sums: __m512i) {
    // SAFETY: see above.
    unsafe { _mm512_storeu_si512(to.cast(), sums) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without further meaning.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}

/// bf16 without its dot product: a pair is two f32 with the low halves cut off.
#[target_feature(enable = "avx512f")]
unsafe fn widened_avx512<const R: usize>(call: &TileCall<'_>) {
    // SAFETY: see above.
    unsafe { if call.half { widened_columns::<R, 1>(call) } else { widened_columns::<R, 2>(call) } }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn widened_columns<const R: usize, const C: usize>(call: &TileCall<'_>) {
    // SAFETY: see above.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); C]; R];
        if call.accumulate {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (c, acc) in acc.iter_mut().enumerate() {
                    *acc = _mm512_loadu_ps(call.out.add(r * PANEL + c * 16).cast());
                }
            }
        }
        let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        let mut part = Some(call);
        while let Some(call) = part {
            let (mut a, mut panel) = (call.a, call.panel);
            for _ in 0..call.steps {
                let (mut even, mut odd) = ([_mm512_setzero_ps(); C], [_mm512_setzero_ps(); C]);
                for c in 0..C {
                    let pairs = _mm512_loadu_si512(panel.add(c * 64).cast());
                    even[c] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
                    odd[c] = _mm512_castsi512_ps(_mm512_and_si512(pairs, high));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = a.add(r * call.stride).cast::<f32>();
                    let (x0, x1) =
                        (_mm512_set1_ps(x.read_unaligned()), _mm512_set1_ps(x.add(1).read_unaligned()));
                    for c in 0..C {
                        acc[c] = _mm512_fmadd_ps(x1, odd[c], _mm512_fmadd_ps(x0, even[c], acc[c]));
                    }
                }
                a = a.add(8);
                panel = panel.wrapping_add(call.panel_stride);
            }
            part = call.next;
        }
        for (r, acc) in acc.iter().enumerate() {
            for (c, acc) in acc.iter().enumerate() {
                store_f32(call.out.add(r * PANEL + c * 16), *acc);
            }
        }
    }
}

/// A form with 256-bit registers: one half of the panel after the other.
macro_rules! narrow {
    ($name:ident, $features:literal, $step:literal, $zero:expr,
        |$x:ident, $b:ident, $acc:ident| $dot:block, $load:ident, $store:ident) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize>(call: &TileCall<'_>) {
            // SAFETY: see above.
            unsafe {
                for half in 0..if call.half { 1 } else { 2 } {
                    let mut acc = [[$zero; 2]; R];
                    if call.accumulate {
                        for (r, acc) in acc.iter_mut().enumerate() {
                            let from = call.out.add(r * PANEL + half * 16);
                            *acc = [$load(from.cast()), $load(from.add(8).cast())];
                        }
                    }
                    let mut part = Some(call);
                    while let Some(call) = part {
                        let (mut a, mut panel) = (call.a, call.panel.add(half * 64));
                        for _ in 0..call.steps {
                            let $b =
                                [_mm256_loadu_si256(panel.cast()), _mm256_loadu_si256(panel.add(32).cast())];
                            for (r, $acc) in acc.iter_mut().enumerate() {
                                let $x = a.add(r * call.stride);
                                $dot
                            }
                            a = a.add($step);
                            panel = panel.wrapping_add(call.panel_stride);
                        }
                        part = call.next;
                    }
                    for (r, acc) in acc.into_iter().enumerate() {
                        let to = call.out.add(r * PANEL + half * 16);
                        $store(to.cast(), acc[0]);
                        $store(to.add(8).cast(), acc[1]);
                    }
                }
            }
        }
    };
}

narrow!(
    f32_avx2,
    "avx2,fma",
    4,
    _mm256_setzero_ps(),
    |x, b, acc| {
        let x = _mm256_set1_ps(x.cast::<f32>().read_unaligned());
        for c in 0..2 {
            acc[c] = _mm256_fmadd_ps(x, _mm256_castsi256_ps(b[c]), acc[c]);
        }
    },
    _mm256_loadu_ps,
    _mm256_storeu_ps
);

narrow!(
    widened_avx2,
    "avx2,fma",
    8,
    _mm256_setzero_ps(),
    |x, b, acc| {
        let x = x.cast::<f32>();
        let (x0, x1) = (_mm256_set1_ps(x.read_unaligned()), _mm256_set1_ps(x.add(1).read_unaligned()));
        for c in 0..2 {
            let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b[c]));
            let odd = _mm256_castsi256_ps(_mm256_and_si256(b[c], _mm256_set1_epi32(0xffff_0000_u32 as i32)));
            acc[c] = _mm256_fmadd_ps(x1, odd, _mm256_fmadd_ps(x0, even, acc[c]));
        }
    },
    _mm256_loadu_ps,
    _mm256_storeu_ps
);

narrow!(
    int8_avxvnni,
    "avx2,avxvnni",
    4,
    _mm256_setzero_si256(),
    |x, b, acc| {
        let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
        for c in 0..2 {
            acc[c] = _mm256_dpbusd_avx_epi32(acc[c], x, b[c]);
        }
    },
    _mm256_loadu_si256,
    _mm256_storeu_si256
);

// Bytes to 16-bit halves first: the instruction that multiplies bytes would saturate their sums.
narrow!(
    int8_avx2,
    "avx2",
    4,
    _mm256_setzero_si256(),
    |x, b, acc| {
        let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
        let (x_even, x_odd) = (_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(x));
        for c in 0..2 {
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b[c]));
            let odd = _mm256_srai_epi16::<8>(b[c]);
            let sum = _mm256_add_epi32(_mm256_madd_epi16(x_even, even), _mm256_madd_epi16(x_odd, odd));
            acc[c] = _mm256_add_epi32(acc[c], sum);
        }
    },
    _mm256_loadu_si256,
    _mm256_storeu_si256
);
