//! How a row's columns are spread over lanes, units and registers.

use super::kernels::row_norm::NormShape;

/// Lanes of a vector where widths allow it: 16 bytes of f32, 8 of f16 and bf16. WGSL has no wider vectors.
pub(crate) const LANES: usize = 4;
/// The spreads that normalising kernels are compiled for, by ascending room.
pub(crate) const ROW_SHAPES: [NormShape; 6] = [
    NormShape { units: 64, vectors_per_unit: 1 },
    NormShape { units: 128, vectors_per_unit: 1 },
    NormShape { units: 256, vectors_per_unit: 1 },
    NormShape { units: 256, vectors_per_unit: 2 },
    NormShape { units: 256, vectors_per_unit: 4 },
    NormShape { units: 256, vectors_per_unit: 8 },
];

/// [`LANES`] where it divides all of `widths`, else 1.
pub(crate) fn lanes(widths: impl IntoIterator<Item = usize>) -> usize {
    if widths.into_iter().all(|width| width.is_multiple_of(LANES)) { LANES } else { 1 }
}

/// The spread of a row of `width` columns read `lanes` at a time; `None` for rows too wide.
pub(crate) fn row_shape(width: usize, lanes: usize) -> Option<NormShape> {
    let vectors = width / lanes;
    ROW_SHAPES.into_iter().find(|shape| shape.units * shape.vectors_per_unit >= vectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_of_a_row_has_a_unit_and_a_register() {
        for width in 1..9000 {
            let lanes = lanes([width]);
            match row_shape(width, lanes) {
                Some(shape) => assert!(shape.units * shape.vectors_per_unit * lanes >= width),
                None => assert!(width > 2048 * lanes),
            }
        }
        assert_eq!(lanes([384, 1152]), LANES);
        assert_eq!(lanes([384, 6]), 1);
    }
}
