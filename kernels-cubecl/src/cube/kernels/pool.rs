//! One vector a sequence, a workgroup a sequence.

use cubecl::prelude::*;

use super::lookup::group_number;
use super::row_norm::NormShape;
use super::row_sum::row_sums;
use super::vectors::lane_sum;
use crate::Pooling;

/// `hidden` is `[T, width]`, `bounds` begins with `cu_seqlens` `[B + 1]`, `out` `[B, width]` in f32. Grid: x (and z) sequences.
#[cube(launch)]
pub(crate) fn pool_rows<F: Float, N: Size>(
    hidden: &[Vector<F, N>],
    bounds: &[i32],
    out: &mut [Vector<f32, N>],
    sequences: u32,
    width: u32,
    normalize: u32,
    #[comptime] pooling: Pooling,
    #[comptime] shape: NormShape,
    #[define(F)] _dtype: ElemType,
    #[define(N)] _lanes: usize,
) {
    let vectors = width as usize / N::value();
    let sequence = group_number();
    let live = sequence < sequences as usize;
    let sequence = select(live, sequence, 0);
    let start = bounds[sequence] as usize;
    let end = bounds[sequence + 1] as usize;
    let mut values = Array::<Vector<f32, N>>::new(shape.vectors_per_unit);
    let mut part = Vector::<f32, N>::new(0.0f32);
    #[unroll]
    for i in 0..shape.vectors_per_unit {
        let vector = UNIT_POS as usize + i * comptime!(shape.units);
        values[i] = Vector::<f32, N>::new(0.0f32);
        if vector < vectors {
            let value = pooled(hidden, vector, vectors, start, end, pooling);
            values[i] = value;
            part += value * value;
        }
    }
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(shape.units));
    let mut parts = Array::<f32>::new(1usize);
    parts[0] = lane_sum::<N>(part);
    let squares = row_sums(&parts, &mut scratch, 1usize, shape.units);
    // The floor of torch.nn.functional.normalize.
    let length = select(normalize > 0, max(f32::sqrt(squares[0]), 1e-12f32), 1.0f32);
    #[unroll]
    for i in 0..shape.vectors_per_unit {
        let vector = UNIT_POS as usize + i * comptime!(shape.units);
        if live && vector < vectors {
            out[sequence * vectors + vector] = values[i] / Vector::<f32, N>::new(length);
        }
    }
}

/// One vector of columns over rows `start .. end`.
#[cube]
fn pooled<F: Float, N: Size>(
    hidden: &[Vector<F, N>],
    vector: usize,
    vectors: usize,
    start: usize,
    end: usize,
    #[comptime] pooling: Pooling,
) -> Vector<f32, N> {
    let first = Vector::<f32, N>::cast_from(hidden[start * vectors + vector]);
    match comptime!(pooling) {
        Pooling::Cls => first,
        Pooling::LastToken => Vector::<f32, N>::cast_from(hidden[(end - 1) * vectors + vector]),
        Pooling::Max => {
            let mut most = first;
            for row in start + 1..end {
                most = max(most, Vector::<f32, N>::cast_from(hidden[row * vectors + vector]));
            }
            most
        }
        Pooling::Mean => {
            let mut sum = first;
            for row in start + 1..end {
                sum += Vector::<f32, N>::cast_from(hidden[row * vectors + vector]);
            }
            sum / Vector::<f32, N>::new(f32::cast_from((end - start) as u32))
        }
    }
}
