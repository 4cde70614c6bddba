//! Rows of weights as 8-bit integers with one scale a row, symmetric.

use crate::packed_matrix::WeightFormat;

/// Largest magnitude of one integer.
const MOST: f32 = 127.0;
/// Largest sum of the weights of one sign of an eight: 255 times as much fits 16 bits.
const MOST_IN_EIGHT: i32 = 128;
/// The same before they are rounded, each by a half at most.
const MOST_BEFORE_ROUNDING: f32 = 124.0;
/// Inputs of two eights: four steps of four inputs, of which one eight has the first two of each step, and the other the last two.
const TWO_EIGHTS: usize = 16;

/// What a row's integers are to be multiplied by, and what they come to.
pub(crate) struct Int8Row {
    /// The scale.
    pub scale: f32,
    /// The scale times the sum of the integers.
    pub total: f32,
}

/// Quantises `row`, giving each input's integer to `put`, in order. The scale is the smallest at which no weight is beyond 127 and,
/// with [`WeightFormat::Int8InEights`], the weights of one sign in no eight come to more than 124. It is 1 where there is none: in rows
/// of zeros, of less than f32 divides, or with infinities. NaNs count nothing in it and become 0. In any case integers stay within 127,
/// and those of one sign in an eight within 128.
pub(crate) fn quantize_row(row: &[f32], format: WeightFormat, mut put: impl FnMut(usize, i8)) -> Int8Row {
    let in_eights = format == WeightFormat::Int8InEights;
    let scale = row_scale(row, in_eights);
    let mut sum = 0;
    for (at, inputs) in row.chunks(TWO_EIGHTS).enumerate() {
        // What is left for the weights of each sign of each eight; it binds only where the scale says nothing, or not enough, of the row.
        let mut left = [[MOST_IN_EIGHT; 2]; 2];
        for (i, w) in inputs.iter().enumerate() {
            let mut integer = (w / scale).round_ties_even().clamp(-MOST, MOST) as i32;
            if in_eights {
                let left = &mut left[eight_of(i)][usize::from(integer < 0)];
                integer = integer.clamp(-*left, *left);
                *left -= integer.abs();
            }
            sum += integer;
            put(at * TWO_EIGHTS + i, integer as i8);
        }
    }
    Int8Row { scale, total: scale * sum as f32 }
}

fn row_scale(row: &[f32], in_eights: bool) -> f32 {
    let mut scale = row.iter().fold(0f32, |most, w| most.max(w.abs() / MOST));
    if in_eights {
        for inputs in row.chunks(TWO_EIGHTS) {
            let mut sums = [[0f32; 2]; 2];
            for (i, w) in inputs.iter().enumerate() {
                let [above, below] = &mut sums[eight_of(i)];
                *above += w.max(0.0) / MOST_BEFORE_ROUNDING;
                *below -= w.min(0.0) / MOST_BEFORE_ROUNDING;
            }
            scale = sums.as_flattened().iter().fold(scale, |most, sum| most.max(*sum));
        }
    }
    if scale > 0.0 && scale.is_finite() { scale } else { 1.0 }
}

/// Which eight the `i`th input of two is of.
fn eight_of(i: usize) -> usize {
    i % 4 / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quantized(row: &[f32], format: WeightFormat) -> (Int8Row, Vec<i32>) {
        let mut integers = vec![];
        let found = quantize_row(row, format, |at, q| {
            assert_eq!(at, integers.len());
            integers.push(q as i32);
        });
        (found, integers)
    }

    fn weights() -> impl Strategy<Value = Vec<f32>> {
        let any = prop_oneof![
            8 => -1f32..1.0,
            2 => -100f32..100.0,
            1 => prop::num::f32::ANY,
            1 => Just(f32::MAX),
            1 => Just(1e-44),
        ];
        prop::collection::vec(any, 0..40)
    }

    proptest! {
        #[test]
        fn products_of_an_eight_with_bytes_fit_16_bits(row in weights()) {
            let (_, integers) = quantized(&row, WeightFormat::Int8InEights);
            for inputs in integers.chunks(TWO_EIGHTS) {
                for eight in 0..2 {
                    let weights = inputs.iter().enumerate().filter(|(i, _)| i % 4 / 2 == eight).map(|(_, q)| *q);
                    let (above, below): (Vec<i32>, Vec<i32>) = weights.partition(|q| *q > 0);
                    for products in [above, below] {
                        let sum = 255 * products.iter().sum::<i32>();
                        prop_assert!(i16::try_from(sum).is_ok(), "{inputs:?}");
                    }
                }
            }
        }

        #[test]
        fn an_integer_is_within_half_a_step_of_its_weight(row in prop::collection::vec(-10f32..10.0, 0..40)) {
            for format in [WeightFormat::Int8, WeightFormat::Int8InEights] {
                let (found, integers) = quantized(&row, format);
                prop_assert_eq!(integers.len(), row.len());
                let sum: i32 = integers.iter().sum();
                prop_assert_eq!(found.total, found.scale * sum as f32);
                for (w, q) in row.iter().zip(integers) {
                    prop_assert!((w - q as f32 * found.scale).abs() <= found.scale * 0.501, "{format:?}: {q} for {w}");
                }
            }
        }
    }

    #[test]
    fn a_nan_leaves_the_rest_of_its_row() {
        for (format, want) in [(WeightFormat::Int8, [0, 3, -127]), (WeightFormat::Int8InEights, [0, 2, -124])]
        {
            let (found, integers) = quantized(&[f32::NAN, 0.01, -0.5], format);
            assert_eq!((found.scale, &integers[..]), (0.5 / -want[2] as f32, &want[..]), "{format:?}");
        }
    }

    #[test]
    fn eights_of_unlike_signs_keep_seven_bits_and_others_share_them() {
        let even = quantized(&[1.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0], WeightFormat::Int8InEights);
        assert_eq!((even.0.scale, &even.1[..]), (1.0 / 124.0, &[124, -124, 124, 0, 0, 0, 0, -124][..]));
        // The fifth input is of the first one's eight, the third one is not.
        let shared = quantized(&[1.0, 0.0, 0.5, 0.0, 1.0], WeightFormat::Int8InEights);
        assert_eq!((shared.0.scale, &shared.1[..]), (1.0 / 62.0, &[62, 0, 31, 0, 62][..]));
        let apart: Vec<f32> =
            (0..2 * TWO_EIGHTS).map(|i| if i % TWO_EIGHTS == 0 { 1.0 } else { 0.0 }).collect();
        assert_eq!(quantized(&apart, WeightFormat::Int8InEights).0.scale, 1.0 / 124.0);
    }
}
