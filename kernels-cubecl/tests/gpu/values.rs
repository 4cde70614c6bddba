//! Values for tests, and how close results must come.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// `len` values in -1..1 that differ by seed.
pub fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / 8_388_608.0) - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// `[rows, columns]` on the CPU.
pub fn matrix(seed: u64, rows: usize, columns: usize) -> Tensor<2> {
    let data = TensorData::new(values(seed, rows * columns), [rows, columns]);
    Tensor::from_data(data, (&Device::flex(), DType::F32))
}

/// `[len]` on the CPU.
pub fn vector(seed: u64, len: usize) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values(seed, len), [len]), (&Device::flex(), DType::F32))
}

/// All values as f32.
pub fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// `values` as `dtype` holds them.
pub fn round(values: &mut [f32], dtype: DType) {
    if dtype != DType::F32 {
        let len = values.len();
        let exact =
            Tensor::<1>::from_data(TensorData::new(values.to_vec(), [len]), (&Device::flex(), DType::F32));
        values.copy_from_slice(&read(exact.cast(dtype)));
    }
}

/// The distance from 1 to the next number of `dtype`.
pub fn epsilon(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => 1.0 / 1024.0,
        DType::BF16 => 1.0 / 128.0,
        _ => f32::EPSILON,
    }
}

/// Greatest difference allowed, relative to 1 plus the size of the value, for sums of `terms` products of values in -1..1
/// (their spread is a third of sqrt(terms)): the product is rounded to `dtype` once on its way, the result once, and in f32
/// a sum's roundings add up like a random walk.
pub fn tolerance(dtype: DType, terms: usize) -> f32 {
    let spread = (terms as f32).sqrt();
    epsilon(dtype) * (1.0 + spread) + f32::EPSILON * 8.0 * (1.0 + spread)
}

/// Differences relative to 1 plus the size of the value.
pub fn assert_close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let close = (g - w).abs() <= tolerance * (1.0 + w.abs());
        assert!(close, "{what}: value {i} is {g}, the reference says {w} (tolerance {tolerance})");
    }
}
