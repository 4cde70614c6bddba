//! Attention on the CPU.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use polylora_kernels_cpu as cpu;
use polylora_kernels_cpu::isa::Isa;

use super::{contiguous, from_values, is_f32, values};
use crate::ops::attention::{AttentionArgs, AttentionMask, AttentionOps};
use crate::reference;

impl AttentionOps for Flex {
    fn attention_packed(args: AttentionArgs<Self>) -> FloatTensor<Self> {
        let AttentionMask::Full = args.mask;
        if !is_f32(&args.qkv) {
            return reference::attention::attention_packed::<Self>(args);
        }
        let bounds = &args.sequences.host;
        let rows = bounds[bounds.len() - 1] as usize;
        let width = args.heads.heads * args.heads.width;
        let qkv = contiguous(args.qkv);
        // Three views into the fused projection, read where they lie.
        let part = |i: usize| values(&qkv).get(i * width..).unwrap_or_default();
        let mut out = vec![0f32; rows * width];
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
        from_values(out, [rows, width].into())
    }
}
