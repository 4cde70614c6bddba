//! Attention on the CPU.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn_flex::FlexTensor;
use polylora_kernels_cpu as cpu;
use polylora_kernels_cpu::isa::Isa;

use super::{contiguous, from_values, is_f32, row_stride};
use crate::ops::attention::{AttentionArgs, AttentionMask, AttentionOps};
use crate::reference;

impl AttentionOps for Flex {
    fn attention_packed(args: AttentionArgs<Self>) -> FloatTensor<Self> {
        let AttentionMask::Full = args.mask;
        if ![&args.q, &args.k, &args.v].into_iter().all(is_f32) {
            return reference::attention::attention_packed::<Self>(args);
        }
        let bounds = &args.sequences.host;
        let rows = bounds[bounds.len() - 1] as usize;
        let width = args.heads.heads * args.heads.width;
        // The three views into one fused projection are read where they lie.
        let (q, k, v, stride) = match [&args.q, &args.k, &args.v].map(|t| row_stride(t.layout())) {
            [Some((_, s0)), Some((_, s1)), Some((_, s2))] if s0 == s1 && s1 == s2 => {
                (args.q, args.k, args.v, s0)
            }
            _ => (contiguous(args.q), contiguous(args.k), contiguous(args.v), width),
        };
        let from_start = |t: &FlexTensor| t.layout().start_offset();
        let mut out = vec![0f32; rows * width];
        let call = cpu::AttentionCall {
            q: &q.storage::<f32>()[from_start(&q)..],
            k: &k.storage::<f32>()[from_start(&k)..],
            v: &v.storage::<f32>()[from_start(&v)..],
            stride,
            cu_seqlens: bounds,
            heads: args.heads,
            scale: args.scale,
        };
        cpu::attention_packed(Isa::current(), call, &mut out);
        from_values(out, [rows, width].into())
    }
}
