//! Rows of weights as 8-bit integers with one scale a row, symmetric.

use crate::packed_matrix::WeightFormat;

/// Largest magnitude of one integer.
const MOST: f32 = 127.0;
/// Largest magnitude of the sum of two neighbours where they must go in pairs: 255 times as much fits 16 bits.
const MOST_IN_PAIRS: f32 = 128.0;

/// What a row's integers are to be multiplied by, and what they come to.
pub(crate) struct Int8Row {
    /// The scale.
    pub scale: f32,
    /// The scale times the sum of the integers.
    pub total: f32,
}

/// Quantises `row`, giving each input's integer to `put`. The scale is the smallest at which no weight is beyond 127 and, with
/// [`WeightFormat::Int8InPairs`], no sum of the inputs `2 i` and `2 i + 1` beyond 128; NaNs count nothing in it and become 0. It is 1
/// where there is none: in rows of zeros, of less than f32 divides, or with infinities. Integers keep the bounds in any case.
pub(crate) fn quantize_row(row: &[f32], format: WeightFormat, mut put: impl FnMut(usize, i8)) -> Int8Row {
    let in_pairs = format == WeightFormat::Int8InPairs;
    let scale = row_scale(row, in_pairs);
    let mut sum = 0;
    for (at, pair) in row.chunks(2).enumerate() {
        let quotients = [pair[0] / scale, pair.get(1).map_or(0.0, |w| w / scale)];
        let mut integers = quotients.map(|q| q.round_ties_even().clamp(-MOST, MOST) as i32);
        let beyond = (integers[0] + integers[1]).abs() - MOST_IN_PAIRS as i32;
        if in_pairs && beyond > 0 {
            // Only where the scale says nothing of the row: rounding does not take a pair of up to 128 beyond it.
            integers[0] -= beyond * integers[0].signum();
        }
        for (i, integer) in integers.into_iter().take(pair.len()).enumerate() {
            sum += integer;
            put(2 * at + i, integer as i8);
        }
    }
    Int8Row { scale, total: scale * sum as f32 }
}

fn row_scale(row: &[f32], in_pairs: bool) -> f32 {
    let single = row.iter().fold(0f32, |most, w| most.max(w.abs() / MOST));
    let scale = if in_pairs {
        let sum_of = |pair: &[f32]| pair.iter().map(|w| w / MOST_IN_PAIRS).sum::<f32>().abs();
        row.chunks(2).map(sum_of).fold(single, f32::max)
    } else {
        single
    };
    if scale > 0.0 && scale.is_finite() { scale } else { 1.0 }
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
        fn products_of_a_pair_with_bytes_fit_16_bits(row in weights()) {
            let (_, integers) = quantized(&row, WeightFormat::Int8InPairs);
            for pair in integers.chunks(2) {
                for bytes in [[255, 255], [255, 0], [0, 255]] {
                    let sum: i32 = pair.iter().zip(bytes).map(|(q, x)| q * x).sum();
                    prop_assert!(i16::try_from(sum).is_ok(), "{pair:?} times {bytes:?}");
                }
            }
        }

        #[test]
        fn an_integer_is_within_half_a_step_of_its_weight(row in prop::collection::vec(-10f32..10.0, 0..40)) {
            for format in [WeightFormat::Int8, WeightFormat::Int8InPairs] {
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
        for format in [WeightFormat::Int8, WeightFormat::Int8InPairs] {
            let (found, integers) = quantized(&[f32::NAN, 0.01, -0.5], format);
            assert_eq!((found.scale, &integers[..]), (0.5 / 127.0, &[0, 3, -127][..]), "{format:?}");
        }
    }

    #[test]
    fn pairs_of_unlike_signs_and_lone_weights_keep_all_seven_bits() {
        let row = [1.0, -1.0, 0.0, 0.5, 0.25];
        let (single, pairs) =
            (quantized(&row, WeightFormat::Int8), quantized(&row, WeightFormat::Int8InPairs));
        assert_eq!(single.0.scale, pairs.0.scale);
        assert_eq!(single.1, pairs.1);
    }
}
