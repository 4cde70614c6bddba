//! Embedding lookup on the CPU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn_flex::FlexTensor;
use polylora_kernels_cpu as cpu;
use polylora_kernels_cpu::isa::Isa;

use super::{contiguous, from_values, is_f32, values};
use crate::ops::embedding::{EmbedNormArgs, EmbeddingOps};
use crate::reference;

impl EmbeddingOps for Flex {
    fn embed_norm(args: EmbedNormArgs<Self>) -> FloatTensor<Self> {
        let tables = [&args.words, &args.positions, &args.norm.gamma, &args.norm.beta];
        if !tables.into_iter().all(is_f32) {
            return reference::embedding::embed_norm::<Self>(args);
        }
        let width = args.words.shape()[1];
        let (words, positions) = (contiguous(args.words), contiguous(args.positions));
        let (gamma, beta) = (contiguous(args.norm.gamma), contiguous(args.norm.beta));
        let (ids, position_ids) = (indices(args.ids), indices(args.position_ids));
        let mut out = vec![0f32; ids.len() * width];
        let call = cpu::EmbeddingCall {
            ids: &ids,
            positions: &position_ids,
            words: values(&words),
            position_table: values(&positions),
            norm: cpu::NormParams { gamma: values(&gamma), beta: values(&beta), epsilon: args.norm.epsilon },
        };
        cpu::embed_norm(Isa::current(), call, &mut out);
        from_values(out, [ids.len(), width].into())
    }
}

/// An integer tensor's values as indices.
fn indices(tensor: FlexTensor) -> Vec<u32> {
    tensor.into_data().iter::<i64>().map(|i| u32::try_from(i).expect("an index is not negative")).collect()
}
