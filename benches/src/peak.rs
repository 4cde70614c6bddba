//! What the machine gives: our own matrix product at a favourable size, which the floor of a pass is reckoned from.

use std::time::Duration;

use burn::tensor::{DType, bf16};
use polylora_kernels::device::OpenDevice;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::{Activation, Element, LinearCall, PackedMatrix, WeightFormat, linear};

use crate::{BenchError, Random, passes};

const ROWS: usize = 1600;
const INPUTS: usize = 384;
const OUTPUTS: usize = 1536;

/// A product `[1600, 384] x [384, 1536]`, without epilogue: MiniLM's widest layer for 100 texts of 16 tokens.
#[derive(Debug)]
pub struct GemmPeak {
    x: Rows,
    weight: PackedMatrix,
    seen: Vec<f64>,
}

/// Input and result in the dtype of activations.
#[derive(Debug)]
enum Rows {
    F32(Vec<f32>, Vec<f32>),
    Bf16(Vec<bf16>, Vec<bf16>),
}

impl GemmPeak {
    /// The product for rows and weights as the model on `on` has them.
    pub fn new(on: &OpenDevice) -> Self {
        let mut random = Random::new(0);
        let mut values = |n: usize| (0..n).map(|_| random.symmetric(1.0)).collect::<Vec<f32>>();
        let format = on.weight_format().unwrap_or(WeightFormat::F32);
        let weight = PackedMatrix::pack(&values(OUTPUTS * INPUTS), OUTPUTS, INPUTS, format);
        let x = values(ROWS * INPUTS);
        let x = if on.dtype == DType::BF16 {
            Rows::Bf16(x.into_iter().map(bf16::from_f32).collect(), vec![bf16::ZERO; ROWS * OUTPUTS])
        } else {
            Rows::F32(x, vec![0.0; ROWS * OUTPUTS])
        };
        Self { x, weight, seen: vec![] }
    }

    /// Measures it for about `budget`, in GFLOP/s at the median pass.
    ///
    /// # Errors
    /// None of its own.
    pub fn measure(&mut self, budget: Duration) -> Result<f64, BenchError> {
        let timed = passes(budget, || {
            match &mut self.x {
                Rows::F32(x, out) => product(x, &self.weight, out),
                Rows::Bf16(x, out) => product(x, &self.weight, out),
            }
            Ok(())
        })?;
        let rate = (2 * ROWS * INPUTS * OUTPUTS) as f64 / timed.median() / 1e6;
        self.seen.push(rate);
        Ok(rate)
    }

    /// Median, lowest and highest of what was measured so far, in GFLOP/s; `None` before the first time.
    pub fn seen(&self) -> Option<[f64; 3]> {
        let mut sorted = self.seen.clone();
        sorted.sort_by(f64::total_cmp);
        Some([*sorted.get(sorted.len() / 2)?, *sorted.first()?, *sorted.last()?])
    }
}

fn product<E: Element>(x: &[E], weight: &PackedMatrix, out: &mut [E]) {
    let (activation, lora) = (Activation::Identity, &[][..]);
    let call = LinearCall { x, weight, bias: None, lora, activation, residual: None, norm: None };
    linear(Isa::current(), call, out);
}
