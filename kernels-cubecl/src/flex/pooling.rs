//! Pooling on the CPU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::bf16;
use polylora_kernels_cpu as cpu;
use polylora_kernels_cpu::isa::Isa;

use super::buffers::{Value, give};
use super::{KernelDType, contiguous, from_values, kernel_dtype, values};
use crate::ops::pooling::{PoolArgs, PoolingOps};
use crate::reference;

impl PoolingOps for Flex {
    fn pool(args: PoolArgs<Self>) -> FloatTensor<Self> {
        match kernel_dtype(&args.hidden, []) {
            Some(KernelDType::F32) => run::<f32>(args),
            Some(KernelDType::Bf16) => run::<bf16>(args),
            None => reference::pooling::pool::<Self>(args),
        }
    }
}

/// The vectors are f32 whatever the rows are: they are what the model is asked for.
fn run<E: Value>(args: PoolArgs<Flex>) -> FloatTensor<Flex> {
    let width = args.hidden.shape()[1];
    let hidden = contiguous(args.hidden);
    let bounds = &args.sequences.host;
    let mut out = vec![0f32; (bounds.len() - 1) * width];
    let how = (args.pooling, args.normalize);
    cpu::pool(Isa::current(), values::<E>(&hidden), bounds, how, &mut out);
    give::<E>(hidden);
    from_values(out, [bounds.len() - 1, width].into())
}
