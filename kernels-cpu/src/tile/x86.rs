//! The products in AVX registers: AVX2 (2 rows by the whole panel, or up to 24 in parts) and AVX-512 (14 or 12
//! rows by the whole panel, or half of one).
//!
//! Where the rows are few, panels come from memory as fast as it gives them, if they are asked for early enough: those forms
//! fetch ahead of their loads.

mod narrow;
mod narrow_int16;
mod narrow_steps;
mod wide;

use std::arch::x86_64::*;

use super::{OperandForm, TileKernel, by_rows};
use crate::aligned::LINE;
use crate::isa::Isa;
use crate::packed_matrix::WeightFormat;
use narrow::{f32_avx2, int8_avx2, int8_avxvnni, widened_avx2};
use narrow_int16::int16_avx2;
use wide::{bf16_avx512, f32_avx512, int8_avx512, int8_bf16_avx512, widened_avx512};

/// The form that `isa` has.
pub(super) fn kernel(isa: Isa, format: WeightFormat) -> Option<TileKernel> {
    let wide = isa >= Isa::Avx512;
    let (vnni, bf16) = (is_x86_feature_detected!("avx512vnni"), is_x86_feature_detected!("avx512bf16"));
    let of = |operand, functions, rows_at_once, path| {
        Some(TileKernel { operand, functions, tiles: false, rows_at_once, settles: false, path })
    };
    match (isa, format) {
        (Isa::Scalar, _) => None,
        (_, WeightFormat::F32) if wide => {
            of(OperandForm::F32, by_rows!(f32_avx512: 1 2 3 4 5 6 7 8 9 10 11 12 13 14), 1, "AVX-512")
        }
        (_, WeightFormat::F32) => {
            let rows = by_rows!(f32_avx2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24);
            of(OperandForm::F32, rows, 3, "AVX2")
        }
        (_, WeightFormat::Bf16) if wide && bf16 => {
            of(OperandForm::Bf16, by_rows!(bf16_avx512: 1 2 3 4 5 6 7 8 9 10 11 12 13 14), 1, "AVX-512 BF16")
        }
        (_, WeightFormat::Bf16) if wide => {
            let rows = by_rows!(widened_avx512: 1 2 3 4 5 6 7 8 9 10 11 12);
            of(OperandForm::Widened, rows, 1, "AVX-512, widened to f32")
        }
        (_, WeightFormat::Bf16) => {
            let rows = by_rows!(widened_avx2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20);
            of(OperandForm::Widened, rows, 5, "AVX2, widened to f32")
        }
        (_, WeightFormat::Int8 | WeightFormat::Int8InEights) if wide && vnni && bf16 => {
            let rows = by_rows!(int8_bf16_avx512: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            let kernel = of(OperandForm::Bytes, rows, 1, "AVX-512 VNNI");
            kernel.map(|kernel| TileKernel { settles: true, ..kernel })
        }
        (_, WeightFormat::Int8 | WeightFormat::Int8InEights) if wide && vnni => {
            of(OperandForm::Bytes, by_rows!(int8_avx512: 1 2 3 4 5 6 7 8 9 10 11 12 13 14), 1, "AVX-512 VNNI")
        }
        (Isa::AvxVnni, WeightFormat::Int8 | WeightFormat::Int8InEights) => {
            let rows = by_rows!(int8_avxvnni: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
            of(OperandForm::Bytes, rows, 1, "AVX-VNNI")
        }
        // AVX2 has no exact sum of four products of bytes.
        (_, WeightFormat::Int8) => None,
        (_, WeightFormat::Int8InEights) => {
            let rows = by_rows!(int8_avx2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24);
            of(OperandForm::Bytes, rows, 2, "AVX2")
        }
    }
}

/// The form for 16-bit integers, of all instruction sets from AVX2 on.
pub(super) fn int16() -> TileKernel {
    let functions = by_rows!(int16_avx2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24);
    TileKernel {
        operand: OperandForm::Int16,
        functions,
        tiles: false,
        rows_at_once: 5,
        settles: false,
        path: "AVX2",
    }
}

/// Brings `lines` cache lines from an address on into the first-level cache.
#[inline(always)]
fn fetch(from: *const u8, lines: usize) {
    fetch_into::<_MM_HINT_T0>(from, lines);
}

/// The same into the cache that a hint names.
#[inline(always)]
fn fetch_into<const HINT: i32>(from: *const u8, lines: usize) {
    for line in 0..lines {
        // SAFETY: fetching is a hint, which any address may be given to.
        unsafe { _mm_prefetch::<HINT>(from.wrapping_add(line * LINE).cast()) };
    }
}
