//! Paged keys and values on the CPU.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, bf16};
use polylora_kernels_cpu as cpu;
use polylora_kernels_cpu::KvPanels;
use polylora_kernels_cpu::isa::Isa;

use super::buffers::{Value, give, take};
use super::{contiguous, from_values, in_f32, values};
use crate::kv_layer::KvCache;
use crate::ops::paged::{
    AttentionPagedArgs, CopyBlocksArgs, HeadNormTensors, PagedOps, StoreKvArgs, StoredKv,
};
use crate::reference;

impl PagedOps for Flex {
    fn store_kv(args: StoreKvArgs<Self>) -> StoredKv<Self> {
        match (&args.cache, args.qkv.dtype()) {
            (KvCache::Plain(_), _) => reference::paged::store_kv::<Self>(args),
            (KvCache::Panels(_), DType::BF16) => store::<bf16>(args),
            (KvCache::Panels(_), _) => store::<f32>(args),
        }
    }

    fn attention_paged(args: AttentionPagedArgs<Self>) -> FloatTensor<Self> {
        match (args.cache.clone(), args.q.dtype()) {
            (KvCache::Plain(_), _) => reference::paged::attention_paged::<Self>(args),
            (KvCache::Panels(cache), DType::BF16) => attend::<bf16>(args, &cache),
            (KvCache::Panels(cache), _) => attend::<f32>(args, &cache),
        }
    }

    fn copy_blocks(mut args: CopyBlocksArgs<Self>) -> KvCache<Self> {
        let KvCache::Panels(cache) = &mut args.cache else {
            return reference::paged::copy_blocks::<Self>(args);
        };
        let cache = owned(cache);
        for (from, to) in &args.host {
            cache.copy_block(*from as usize, *to as usize);
        }
        args.cache
    }
}

/// The cache, to be written in place.
///
/// # Panics
/// When somebody else holds it too: then a write would have to copy it.
fn owned(cache: &mut Arc<KvPanels>) -> &mut KvPanels {
    Arc::get_mut(cache).expect("keys and values that are written are held once")
}

fn store<E: Value>(args: StoreKvArgs<Flex>) -> StoredKv<Flex> {
    let StoreKvArgs { qkv, mut cache, shape, rows, rotary, head_norms } = args;
    let KvCache::Panels(panels) = &mut cache else { unreachable!("the caller has looked") };
    let heads = shape.heads;
    let columns = qkv.layout().shape()[1] - 2 * heads.kv * heads.width;
    let heads = cpu::KvHeads { query: columns / heads.width.max(1), ..heads };
    let (cos, sin) = (in_f32(&rotary.cos), in_f32(&rotary.sin));
    let half = rotary.cos.layout().shape()[1];
    let norms = match &head_norms {
        HeadNormTensors::Absent => None,
        HeadNormTensors::Present { q, k } => Some([q, k].map(|norm| (in_f32(&norm.gamma), norm.epsilon))),
    };
    let norm =
        |at: usize| norms.as_ref().map(|norms| cpu::HeadNorm { gamma: &norms[at].0, epsilon: norms[at].1 });
    let qkv = contiguous(qkv);
    let mut q = take::<E>(rows.batch.rows() * columns);
    let call = cpu::StoreCall {
        qkv: values::<E>(&qkv),
        heads,
        batch: &rows.batch,
        rotary: cpu::RotaryTable { cos: &cos, sin: &sin, half },
        norms: [norm(0), norm(1)],
    };
    cpu::store_kv(Isa::current(), call, owned(panels), &mut q);
    give::<E>(qkv);
    StoredKv { q: from_values(q, [rows.batch.rows(), columns].into()), cache }
}

fn attend<E: Value>(args: AttentionPagedArgs<Flex>, cache: &KvPanels) -> FloatTensor<Flex> {
    let AttentionPagedArgs { q, rows, attention, .. } = args;
    let columns = attention.heads.query * attention.heads.width;
    let q = contiguous(q);
    let mut out = take::<E>(rows.batch.rows() * columns);
    let call = cpu::PagedAttentionCall {
        q: values::<E>(&q),
        cache,
        batch: &rows.batch,
        heads: attention.heads,
        scale: attention.scale,
        window: attention.window,
    };
    cpu::attention_paged(Isa::current(), call, &mut out);
    give::<E>(q);
    from_values(out, [rows.batch.rows(), columns].into())
}
