//! Floats as checkpoints store them: widened, and looked through for what no weight may be.

use burn::tensor::{DType, TensorData};
use half::f16;

/// Whether checkpoints may store weights in `dtype`.
pub(crate) fn is_stored(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
}

/// The values as f32.
///
/// # Panics
/// When they are of another dtype than [`is_stored`] names.
pub(crate) fn widened(data: &TensorData) -> Vec<f32> {
    let bytes: &[u8] = data.bytes();
    match data.dtype() {
        DType::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        DType::BF16 => {
            let widen = |b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            bytes.as_chunks().0.iter().map(widen).collect()
        }
        DType::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        DType::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        other => panic!("{other:?} is not stored"),
    }
}

/// The index of the first value that is infinite or no number, in f32.
///
/// # Panics
/// As [`widened`].
pub(crate) fn first_not_finite(data: &TensorData) -> Option<usize> {
    // An exponent of ones alone says so.
    fn find<const N: usize>(bytes: &[u8], is_finite: impl Fn([u8; N]) -> bool) -> Option<usize> {
        bytes.as_chunks::<N>().0.iter().position(|value| !is_finite(*value))
    }
    let bytes: &[u8] = data.bytes();
    match data.dtype() {
        DType::F32 => find(bytes, |b| f32::from_le_bytes(b).is_finite()),
        DType::BF16 => find(bytes, |b| u16::from_le_bytes(b) & 0x7f80 != 0x7f80),
        DType::F16 => find(bytes, |b| u16::from_le_bytes(b) & 0x7c00 != 0x7c00),
        DType::F64 => find(bytes, |b| (f64::from_le_bytes(b) as f32).is_finite()),
        other => panic!("{other:?} is not stored"),
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn values_keep_their_worth_in_every_dtype() {
        let values = [0.0f32, -1.5, 0.25, 96.0, -0.0];
        let f32s = TensorData::new(values.to_vec(), [5]);
        let halves = TensorData::new(values.map(f16::from_f32).to_vec(), [5]);
        let brains = TensorData::new(values.map(bf16::from_f32).to_vec(), [5]);
        let doubles = TensorData::new(values.map(f64::from).to_vec(), [5]);
        for data in [f32s, halves, brains, doubles] {
            assert_eq!(widened(&data), values);
            assert_eq!(first_not_finite(&data), None);
        }
    }

    #[test]
    fn what_is_not_finite_is_found_in_every_dtype() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let values = [1.0, bad, 2.0];
            let f32s = TensorData::new(values.to_vec(), [3]);
            let halves = TensorData::new(values.map(f16::from_f32).to_vec(), [3]);
            let brains = TensorData::new(values.map(bf16::from_f32).to_vec(), [3]);
            let doubles = TensorData::new(vec![1.0, 1e300, 2.0], [3]);
            for data in [f32s, halves, brains, doubles] {
                assert_eq!(first_not_finite(&data), Some(1), "{bad} in {:?}", data.dtype());
            }
        }
    }
}
