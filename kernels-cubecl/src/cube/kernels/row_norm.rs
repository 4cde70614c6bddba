//! Layer normalisation of rows that a workgroup holds in its registers.

use cubecl::prelude::*;

use super::row_sum::row_sums;
use super::vectors::lane_sum;

/// How a row is spread over a workgroup: unit `u` has the vectors `u`, `u + units`, …
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NormShape {
    /// Units, a power of two.
    pub(crate) units: usize,
    /// Vectors a unit.
    pub(crate) vectors_per_unit: usize,
}

/// `gamma (x - mean) / sqrt(variance + epsilon) + beta` of `rows` rows that are `vectors` wide; `values[row *
/// vectors_per_unit + i]` is the unit's vector `i` of a row, zero where there is none.
#[cube]
#[allow(clippy::too_many_arguments)]
pub(crate) fn normalised<F: Float, N: Size>(
    mut values: Array<Vector<f32, N>>,
    gamma: &[Vector<F, N>],
    beta: &[Vector<F, N>],
    epsilon: f32,
    vectors: usize,
    #[comptime] rows: usize,
    #[comptime] shape: NormShape,
) -> Array<Vector<f32, N>> {
    let mine = comptime!(shape.vectors_per_unit);
    let width = f32::cast_from((vectors * N::value()) as u32);
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(rows * shape.units));

    let mut parts = Array::<f32>::new(rows);
    #[unroll]
    for row in 0..rows {
        let mut part = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for i in 0..mine {
            part += values[row * mine + i];
        }
        parts[row] = lane_sum::<N>(part);
    }
    let sums = row_sums(&parts, &mut scratch, rows, shape.units);

    #[unroll]
    for row in 0..rows {
        let mean = Vector::<f32, N>::new(sums[row] / width);
        let mut part = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for i in 0..mine {
            let vector = UNIT_POS as usize + i * comptime!(shape.units);
            // Vectors beyond the row stay out of the variance.
            if vector < vectors {
                let centred = values[row * mine + i] - mean;
                values[row * mine + i] = centred;
                part += centred * centred;
            }
        }
        parts[row] = lane_sum::<N>(part);
    }
    let squares = row_sums(&parts, &mut scratch, rows, shape.units);

    #[unroll]
    for i in 0..mine {
        let vector = UNIT_POS as usize + i * comptime!(shape.units);
        if vector < vectors {
            let weight = Vector::<f32, N>::cast_from(gamma[vector]);
            let offset = Vector::<f32, N>::cast_from(beta[vector]);
            #[unroll]
            for row in 0..rows {
                let scale = 1.0f32 / f32::sqrt(squares[row] / width + epsilon);
                values[row * mine + i] =
                    values[row * mine + i] * Vector::<f32, N>::new(scale) * weight + offset;
            }
        }
    }
    values
}
