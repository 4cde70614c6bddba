//! The peak: our own product of matrices at a favourable size, which the floor of a pass is reckoned from.

use std::time::Duration;

use half::bf16;
use polylora_kernels::device::OpenDevice;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::{Activation, Element, LinearCall, PackedMatrix, WeightFormat, linear};

use super::timing::Rates;

/// A product `[448, 384] x [384, 1536]` without what follows it: MiniLM's widest layer for 28 texts of 16 tokens, whatever the
/// model, so that machines can be compared; done so soon that some pass finds all threads' cores free on a busy machine, too.
const ROWS: usize = 448;
const INPUTS: usize = 384;
const OUTPUTS: usize = 1536;

/// The rate for weights and activations as `on` has them, in GFLOP/s, or GOP/s for integers: a multiply-add counts two.
pub fn measure(on: &OpenDevice, budget: Duration) -> Rates {
    let format = on.weight_format().unwrap_or(WeightFormat::F32);
    let weight = PackedMatrix::pack(&values(OUTPUTS * INPUTS), OUTPUTS, INPUTS, format);
    if on.activations_name() == "bf16" {
        rates::<bf16>(&weight, budget)
    } else {
        rates::<f32>(&weight, budget)
    }
}

fn rates<E: Element>(weight: &PackedMatrix, budget: Duration) -> Rates {
    let x: Vec<E> = values(ROWS * INPUTS).into_iter().map(E::from_f32).collect();
    let mut out = vec![E::default(); ROWS * OUTPUTS];
    Rates::of((2 * ROWS * INPUTS * OUTPUTS) as f64, budget, || {
        let (activation, lora) = (Activation::Identity, &[][..]);
        let call = LinearCall { x: &x, weight, bias: None, lora, activation, residual: None, norm: None };
        linear(Isa::current(), call, &mut out);
    })
}

/// Values between -1 and 1 without a pattern that an instruction could profit from.
fn values(count: usize) -> Vec<f32> {
    (0..count as u64)
        .map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}
