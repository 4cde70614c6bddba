//! Attention on the CPU.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::bf16;
use polylora_kernels_cpu as cpu;
use polylora_kernels_cpu::isa::Isa;

use super::buffers::{Value, give, take};
use super::{KernelDType, contiguous, from_values, kernel_dtype, values};
use crate::ops::attention::{AttentionArgs, AttentionMask, AttentionOps};
use crate::reference;

impl AttentionOps for Flex {
    fn attention_packed(args: AttentionArgs<Self>) -> FloatTensor<Self> {
        let AttentionMask::Full = args.mask;
        match kernel_dtype(&args.qkv, []) {
            Some(KernelDType::F32) => run::<f32>(args),
            Some(KernelDType::Bf16) => run::<bf16>(args),
            None => reference::attention::attention_packed::<Self>(args),
        }
    }
}

fn run<E: Value>(args: AttentionArgs<Flex>) -> FloatTensor<Flex> {
    let bounds = &args.sequences.host;
    let rows = bounds[bounds.len() - 1] as usize;
    let width = args.heads.heads * args.heads.width;
    let qkv = contiguous(args.qkv);
    // Three views into the fused projection, read where they lie.
    let part = |i: usize| values::<E>(&qkv).get(i * width..).unwrap_or_default();
    let mut out = take::<E>(rows * width);
    let call = cpu::AttentionCall {
        q: part(0),
        k: part(1),
        v: part(2),
        stride: 3 * width,
        cu_seqlens: bounds,
        heads: args.heads,
        scale: args.scale,
    };
    cpu::attention_packed(Isa::current(), call, &mut out);
    give::<E>(qkv);
    from_values(out, [rows, width].into())
}
