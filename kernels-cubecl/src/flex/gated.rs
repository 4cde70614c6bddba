//! Gated linear units on the CPU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::bf16;
use polylora_kernels_cpu as cpu;
use polylora_kernels_cpu::isa::Isa;

use super::buffers::{Value, give, take};
use super::{KernelDType, contiguous, from_values, kernel_dtype, values};
use crate::ops::gated::{GatedArgs, GatedOps};
use crate::reference;

impl GatedOps for Flex {
    fn gated(args: GatedArgs<Self>) -> FloatTensor<Self> {
        match kernel_dtype(&args.gate_up, []) {
            Some(KernelDType::F32) => run::<f32>(args),
            Some(KernelDType::Bf16) => run::<bf16>(args),
            None => reference::gated::gated::<Self>(args),
        }
    }
}

fn run<E: Value>(args: GatedArgs<Flex>) -> FloatTensor<Flex> {
    let shape = args.gate_up.shape();
    let (rows, width) = (shape[0], shape[1] / 2);
    let gate_up = contiguous(args.gate_up);
    let mut out = take::<E>(rows * width);
    let call = cpu::GatedCall { gate_up: values::<E>(&gate_up), width, activation: args.activation };
    cpu::gated(Isa::current(), call, &mut out);
    give::<E>(gate_up);
    from_values(out, [rows, width].into())
}
