//! Pooling on the CPU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use polylora_kernels_cpu as cpu;
use polylora_kernels_cpu::isa::Isa;

use super::{contiguous, from_values, is_f32, values};
use crate::ops::pooling::{PoolArgs, PoolingOps};
use crate::reference;

impl PoolingOps for Flex {
    fn pool(args: PoolArgs<Self>) -> FloatTensor<Self> {
        if !is_f32(&args.hidden) {
            return reference::pooling::pool::<Self>(args);
        }
        let width = args.hidden.shape()[1];
        let hidden = contiguous(args.hidden);
        let bounds = &args.sequences.host;
        let mut out = vec![0f32; (bounds.len() - 1) * width];
        let how = (args.pooling, args.normalize);
        cpu::pool(Isa::current(), values(&hidden), bounds, how, &mut out);
        from_values(out, [bounds.len() - 1, width].into())
    }
}
