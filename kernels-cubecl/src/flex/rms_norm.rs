//! Root mean square normalisation on the CPU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::bf16;
use polylora_kernels_cpu as cpu;
use polylora_kernels_cpu::isa::Isa;

use super::buffers::{Value, give, take};
use super::{KernelDType, contiguous, from_values, in_f32, kernel_dtype, values};
use crate::ops::rms_norm::{RmsNormArgs, RmsNormOps};
use crate::reference;

impl RmsNormOps for Flex {
    fn rms_norm(args: RmsNormArgs<Self>) -> FloatTensor<Self> {
        match kernel_dtype(&args.x, [&args.norm.gamma]) {
            Some(KernelDType::F32) => run::<f32>(args),
            Some(KernelDType::Bf16) => run::<bf16>(args),
            None => reference::rms_norm::rms_norm::<Self>(args),
        }
    }
}

fn run<E: Value>(args: RmsNormArgs<Flex>) -> FloatTensor<Flex> {
    let RmsNormArgs { x, norm } = args;
    let shape = x.shape();
    let x = contiguous(x);
    let gamma = in_f32(&norm.gamma);
    assert_eq!(gamma.len(), shape[1], "a norm as wide as the rows");
    let mut out = take::<E>(shape.num_elements());
    let call = cpu::RmsNormCall { x: values::<E>(&x), gamma: &gamma, epsilon: norm.epsilon };
    cpu::rms_norm(Isa::current(), call, &mut out);
    give::<E>(x);
    from_values(out, shape)
}
