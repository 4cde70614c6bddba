//! Random weights in place of a checkpoint's, so that any shape can be measured where its files are not.

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};
use polylora_kernels::WeightCoding;
use polylora_kernels::device::OpenDevice;
use sha2::{Digest as _, Sha256};

use crate::ModelError;
use crate::weight_source::WeightSource;

/// Bound of the weights of layers and tables: their standard deviation is then 0.02, as in models before training.
const LARGEST: f32 = 0.034_641;
/// How far the gains of norms lie from 1.
const GAIN_SPREAD: f32 = 0.1;

/// Weights that a seed names; every tensor has the same values in every run, whatever was taken before it.
pub(crate) struct RandomWeights {
    seed: u64,
    dtype: DType,
}

impl RandomWeights {
    /// For a model on a device: in the dtype that it keeps them in, or in f32 where it codes them from that.
    pub(crate) fn new(seed: u64, on: &OpenDevice) -> Self {
        let dtype = match (&on.weights, on.dtype) {
            (WeightCoding::Plain, dtype @ (DType::BF16 | DType::F16)) => dtype,
            _ => DType::F32,
        };
        Self { seed, dtype }
    }

    /// Takes the place of a checkpoint's digest.
    pub(crate) fn digest(&self, architecture: &str) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(b"polylora random model 1\0");
        hasher.update(self.seed.to_le_bytes());
        hasher.update(architecture);
        hasher.finalize().into()
    }

    /// Numbers from -1 to 1 for a tensor (SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
    fn numbers(&self, name: &str) -> impl Iterator<Item = f32> + use<> {
        // FNV-1a: names differ in few bytes, seeds should differ in many bits.
        let hash = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let mut state = name.bytes().fold(self.seed ^ 0xcbf2_9ce4_8422_2325, hash);
        std::iter::from_fn(move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            // The upper 24 bits are exact in f32.
            Some((z >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
        })
    }
}

impl WeightSource for RandomWeights {
    fn take_data(&mut self, name: &str, shape: &[usize]) -> Result<TensorData, ModelError> {
        let (middle, spread) =
            if name.ends_with("norm.weight") { (1.0, GAIN_SPREAD) } else { (0.0, LARGEST) };
        let count = shape.iter().product();
        let values = self.numbers(name).take(count).map(|number| middle + spread * number);
        Ok(match self.dtype {
            DType::BF16 => TensorData::new(values.map(bf16::from_f32).collect(), shape),
            DType::F16 => TensorData::new(values.map(f16::from_f32).collect(), shape),
            _ => TensorData::new(values.collect::<Vec<f32>>(), shape),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored_values::widened;

    fn values(seed: u64, name: &str, dtype: DType) -> Vec<f32> {
        let data = RandomWeights { seed, dtype }.take_data(name, &[40, 50]).expect("values");
        assert_eq!(data.dtype(), dtype);
        widened(&data)
    }

    #[test]
    fn a_tensor_is_named_by_seed_and_name_and_rounded_to_its_dtype() {
        let first = values(1, "a.weight", DType::F32);
        assert_eq!(values(1, "a.weight", DType::F32), first);
        assert_ne!(values(2, "a.weight", DType::F32), first);
        assert_ne!(values(1, "b.weight", DType::F32), first);
        for (dtype, step) in [(DType::BF16, 2e-4), (DType::F16, 2e-5)] {
            let rounded = values(1, "a.weight", dtype);
            assert!(rounded.iter().zip(&first).all(|(a, b)| (a - b).abs() < step), "{dtype:?}");
        }
    }

    #[test]
    fn weights_are_spread_about_zero_and_gains_about_one() {
        let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
        let weights = values(1, "model.layers.0.mlp.down_proj.weight", DType::F32);
        let squares: Vec<f32> = weights.iter().map(|value| value * value).collect();
        assert!(mean(&weights).abs() < 2e-3 && (mean(&squares).sqrt() - 0.02).abs() < 1e-3);
        let gains = values(1, "model.norm.weight", DType::F32);
        assert!((mean(&gains) - 1.0).abs() < 1e-2 && gains.iter().all(|gain| (gain - 1.0).abs() <= 0.1001));
    }
}
