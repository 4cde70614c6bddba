//! Embedding lookup on the CPU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::bf16;
use burn_flex::FlexTensor;
use polylora_kernels_cpu as cpu;
use polylora_kernels_cpu::isa::Isa;

use super::buffers::{Value, take};
use super::{KernelDType, contiguous, from_values, in_f32, kernel_dtype, values};
use crate::ops::embedding::{EmbedArgs, EmbedNormArgs, EmbeddingOps};
use crate::reference;

impl EmbeddingOps for Flex {
    fn embed(args: EmbedArgs<Self>) -> FloatTensor<Self> {
        match kernel_dtype(&args.table, []) {
            Some(KernelDType::F32) => lookup::<f32>(args),
            Some(KernelDType::Bf16) => lookup::<bf16>(args),
            None => reference::embedding::embed::<Self>(args),
        }
    }

    fn embed_norm(args: EmbedNormArgs<Self>) -> FloatTensor<Self> {
        let alike = args.words.dtype() == args.positions.dtype();
        match kernel_dtype(&args.words, [&args.norm.gamma, &args.norm.beta]).filter(|_| alike) {
            Some(KernelDType::F32) => run::<f32>(args),
            Some(KernelDType::Bf16) => run::<bf16>(args),
            None => reference::embedding::embed_norm::<Self>(args),
        }
    }
}

fn lookup<E: Value>(args: EmbedArgs<Flex>) -> FloatTensor<Flex> {
    let width = args.table.shape()[1];
    let (table, ids) = (contiguous(args.table), indices(args.ids));
    let mut out = take::<E>(ids.len() * width);
    cpu::embed(&ids, values::<E>(&table), width, &mut out);
    from_values(out, [ids.len(), width].into())
}

fn run<E: Value>(args: EmbedNormArgs<Flex>) -> FloatTensor<Flex> {
    let width = args.words.shape()[1];
    let (words, positions) = (contiguous(args.words), contiguous(args.positions));
    let (gamma, beta) = (in_f32(&args.norm.gamma), in_f32(&args.norm.beta));
    let (ids, position_ids) = (indices(args.ids), indices(args.position_ids));
    let mut out = take::<E>(ids.len() * width);
    let call = cpu::EmbeddingCall {
        ids: &ids,
        positions: &position_ids,
        words: values(&words),
        position_table: values(&positions),
        norm: cpu::NormParams { gamma: &gamma, beta: &beta, epsilon: args.norm.epsilon },
    };
    cpu::embed_norm(Isa::current(), call, &mut out);
    from_values(out, [ids.len(), width].into())
}

/// An integer tensor's values as indices.
fn indices(tensor: FlexTensor) -> Vec<u32> {
    tensor.into_data().iter::<i64>().map(|i| u32::try_from(i).expect("an index is not negative")).collect()
}
