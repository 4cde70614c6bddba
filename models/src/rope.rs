//! Rotary position embeddings (RoPE, arXiv 2104.09864): the angles of each position.

use std::f64::consts::TAU;

use burn::tensor::{DType, Device, Tensor, TensorData};
use polylora_kernels::Rotary;

use crate::{RopeParameters, RopeScaling};

/// Largest table of cosines, in bytes; there is one of sines as large.
const LARGEST_TABLE_BYTES: usize = 256 << 20;

/// Frequencies of a head's pairs of columns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frequencies {
    /// Radians that a position adds, `[width / 2]`.
    inverse: Vec<f32>,
    /// Factor on cosines and sines.
    attention_factor: f64,
}

/// Most positions that a table has for heads of `width` columns.
pub(crate) fn most_positions(width: usize) -> usize {
    LARGEST_TABLE_BYTES / (width / 2 * size_of::<f32>()).max(1)
}

impl Frequencies {
    /// For heads of `width` columns.
    pub(crate) fn new(rope: RopeParameters, width: usize) -> Self {
        let exponents = (0..width / 2).map(|pair| (2 * pair) as f64 / width as f64);
        let plain: Vec<f64> = exponents.map(|exponent| rope.theta.powf(-exponent)).collect();
        let mut attention_factor = 1.0;
        let scaled: Vec<f64> = match rope.scaling {
            RopeScaling::Default => plain,
            RopeScaling::Linear { factor } => plain.iter().map(|f| f / factor).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                let original = original_positions as f64;
                let scaled = |frequency: f64| {
                    // Waves in the original context; between the two bounds the divisor is faded in.
                    let waves = original * frequency / TAU;
                    let kept = (waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let kept = kept.clamp(0.0, 1.0);
                    (1.0 - kept) * frequency / factor + kept * frequency
                };
                plain.into_iter().map(scaled).collect()
            }
            RopeScaling::Yarn { factor, attention_factor: stated, .. } => {
                attention_factor = stated;
                let (low, high) = yarn_ramp(rope, width);
                let scaled = |(pair, frequency): (usize, &f64)| {
                    let divided = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    frequency / factor * divided + frequency * (1.0 - divided)
                };
                plain.iter().enumerate().map(scaled).collect()
            }
        };
        Self { inverse: scaled.into_iter().map(|f| f as f32).collect(), attention_factor }
    }

    /// The tables of `positions` positions on `device`.
    pub(crate) fn tables(&self, positions: usize, device: &Device) -> Rotary {
        let half = self.inverse.len();
        let (mut cos, mut sin) = (Vec::with_capacity(positions * half), Vec::with_capacity(positions * half));
        for position in 0..positions {
            for frequency in &self.inverse {
                // The angle is rounded to f32 as PyTorch rounds it: at position 100,000 that is what the model has seen.
                let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                cos.push((c * self.attention_factor) as f32);
                sin.push((s * self.attention_factor) as f32);
            }
        }
        let table = |values: Vec<f32>| {
            Tensor::<2>::from_data(TensorData::new(values, [positions, half]), (device, DType::F32))
        };
        Rotary { cos: table(cos), sin: table(sin) }
    }
}

/// Between which pairs of columns YaRN fades its divisor in.
fn yarn_ramp(rope: RopeParameters, width: usize) -> (f64, f64) {
    let RopeScaling::Yarn { original_positions, beta_fast, beta_slow, truncate, .. } = rope.scaling else {
        return (0.0, 1.0);
    };
    // The pair that turns so often over the original positions.
    let pair_of = |turns: f64| {
        let wavelength = original_positions as f64 / (turns * TAU);
        width as f64 * wavelength.ln() / (2.0 * rope.theta.ln())
    };
    let (mut low, mut high) = (pair_of(beta_fast), pair_of(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, high) = (low.max(0.0), high.min(width as f64 - 1.0));
    // Without a step of at least something the ramp would divide by zero.
    if low == high { (low, high + 0.001) } else { (low, high) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(theta: f64, scaling: RopeScaling, width: usize) -> Vec<f32> {
        Frequencies::new(RopeParameters { theta, scaling }, width).inverse
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() <= 2e-6 * e.abs(), "{found:?} is not {expected:?}");
        }
    }

    // The expected values are those of transformers 5.23, `ROPE_INIT_FUNCTIONS`.
    #[test]
    fn frequencies_are_those_of_transformers() {
        let plain = frequencies(1e4, RopeScaling::Default, 8);
        assert_close(&plain, &[1.0, 0.1, 0.01, 0.001]);
        assert_close(
            &frequencies(1e4, RopeScaling::Linear { factor: 4.0 }, 8),
            &[0.25, 0.025, 0.0025, 0.00025],
        );
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 32,
        };
        assert_close(&frequencies(1e4, scaling, 16), &LLAMA3);
        let yarn = |truncate, original_positions| RopeScaling::Yarn {
            factor: 4.0,
            original_positions,
            attention_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate,
        };
        assert_close(&frequencies(1e4, yarn(true, 32), 32), &YARN);
        assert_close(&frequencies(1e6, yarn(false, 4096), 32), &YARN_NOT_TRUNCATED);
    }

    #[test]
    fn tables_hold_cosines_and_sines_of_every_position_times_the_factor() {
        let frequencies = Frequencies { inverse: vec![1.0, 0.5], attention_factor: 2.0 };
        let Rotary { cos, sin } = frequencies.tables(3, &Device::flex());
        assert_eq!(cos.dims(), [3, 2]);
        let values = |table: Tensor<2>| table.into_data().iter::<f32>().collect::<Vec<_>>();
        let expected = |f: fn(f32) -> f32| [0.0, 0.0, 1.0, 0.5, 2.0, 1.0].map(|angle| 2.0 * f(angle));
        assert_close(&values(cos), &expected(f32::cos));
        assert_close(&values(sin), &expected(f32::sin));
    }

    const LLAMA3: [f32; 8] =
        [1.0, 0.09583998, 0.0125, 0.0039528473, 0.00125, 0.00039528473, 0.000125, 3.9528473e-05];
    const YARN: [f32; 16] = [
        1.0,
        0.42175597,
        0.15811388,
        0.044456985,
        0.025,
        0.014058532,
        0.007905695,
        0.0044456986,
        0.0025,
        0.0014058533,
        0.00079056947,
        0.00044456986,
        0.00025,
        0.00014058533,
        7.905695e-05,
        4.4456985e-05,
    ];
    const YARN_NOT_TRUNCATED: [f32; 16] = [
        1.0,
        0.4216965,
        0.17782794,
        0.074989416,
        0.02861361,
        0.009574463,
        0.0029867347,
        0.00081638433,
        0.00025,
        0.00010542412,
        4.4456985e-05,
        1.8747356e-05,
        7.905694e-06,
        3.3338035e-06,
        1.4058534e-06,
        5.9284343e-07,
    ];
}
