//! What the machine gives: our own matrix product at a favourable size, which the floor of a pass is reckoned from.

use std::time::Duration;

use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::{Activation, LinearCall, PackedMatrix, linear};

use crate::{BenchError, Random, passes};

const ROWS: usize = 1600;
const INPUTS: usize = 384;
const OUTPUTS: usize = 1536;

/// A product `[1600, 384] x [384, 1536]` in f32, without epilogue: MiniLM's widest layer for 100 texts of 16 tokens.
#[derive(Debug)]
pub struct GemmPeak {
    x: Vec<f32>,
    weight: PackedMatrix,
    out: Vec<f32>,
    seen: Vec<f64>,
}

impl Default for GemmPeak {
    fn default() -> Self {
        let mut random = Random::new(0);
        let mut values = |n: usize| (0..n).map(|_| random.symmetric(1.0)).collect::<Vec<f32>>();
        let weight = PackedMatrix::pack(&values(OUTPUTS * INPUTS), OUTPUTS, INPUTS);
        Self { x: values(ROWS * INPUTS), weight, out: vec![0.0; ROWS * OUTPUTS], seen: vec![] }
    }
}

impl GemmPeak {
    /// Measures it for about `budget`, in GFLOP/s at the median pass.
    ///
    /// # Errors
    /// None of its own.
    pub fn measure(&mut self, budget: Duration) -> Result<f64, BenchError> {
        let timed = passes(budget, || {
            let call = LinearCall {
                x: &self.x,
                weight: &self.weight,
                bias: None,
                lora: &[],
                activation: Activation::Identity,
                residual: None,
                norm: None,
            };
            linear(Isa::current(), call, &mut self.out);
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
