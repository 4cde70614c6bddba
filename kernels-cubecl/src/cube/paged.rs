//! Paged keys and values: a cache is one plain buffer that the kernels write where it lies.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use polylora_kernels_cpu::{KvHeads, KvShape};

use super::grid::grid;
use super::kernels::attention::AttentionShape;
use super::kernels::paged_decode::{DecodeShape, decode_chunk, decode_sum};
use super::kernels::paged_lookup::PagedShapeLaunch;
use super::kernels::paged_prompt::attention_prompt;
use super::kernels::paged_store::{COPY_UNITS, STORE_ROOM, StoreShapeLaunch, copy_blocks, store_kv};
use super::paged_forms::{DECODE_SHAPES, PagedForm};
use super::row_shape::lanes;
use super::tensors::{contiguous, elem_type, empty};
use super::variant::{ATTENTION_SHAPES, Form, KernelVariant};
use crate::kv_layer::KvCache;
use crate::ops::paged::{
    AttentionPagedArgs, CopyBlocksArgs, HeadNormTensors, PagedOps, StoreKvArgs, StoredKv,
};
use crate::ops::rms_norm::RmsNormTensors;
use crate::paged_index::PROMPT_ROWS;
use crate::reference;

/// Most workgroups that share the copying of a block.
const COPY_PARTS: usize = 64;

impl PagedOps for CubeBackend {
    fn store_kv(args: StoreKvArgs<Self>) -> StoredKv<Self> {
        let KvShape { heads, .. } = args.shape;
        let dtype = args.qkv.dtype;
        let norms_alike = match &args.head_norms {
            HeadNormTensors::Absent => true,
            HeadNormTensors::Present { q, k } => q.gamma.dtype == dtype && k.gamma.dtype == dtype,
        };
        let angles_alike = [&args.rotary.cos, &args.rotary.sin].iter().all(|t| t.dtype == DType::F32);
        let served = heads.width <= STORE_ROOM && norms_alike && angles_alike;
        let (Some(elem), true) = (elem_type(dtype), served) else {
            return reference::paged::store_kv::<Self>(args);
        };
        let (rows, columns) = (args.qkv.shape()[0], args.qkv.shape()[1] - 2 * heads.kv * heads.width);
        let q = empty(&args.qkv, [rows, columns].into(), dtype);
        let cache = args.cache.clone();
        if rows > 0 {
            store(args, q.clone(), elem);
        }
        StoredKv { q, cache }
    }

    fn attention_paged(args: AttentionPagedArgs<Self>) -> FloatTensor<Self> {
        let width = args.shape.heads.width;
        let prompt = ATTENTION_SHAPES.into_iter().find(|shape| shape.head_room >= width);
        let decode = decode_shape(args.attention.heads);
        let (Some(elem), Some(prompt), Some(decode)) = (elem_type(args.q.dtype), prompt, decode) else {
            return reference::paged::attention_paged::<Self>(args);
        };
        assert!(u32::try_from(args.q.shape().num_elements()).is_ok(), "queries beyond 32-bit indices");
        let out = empty(&args.q, args.q.shape(), args.q.dtype);
        attend_prompts(&args, out.clone(), elem, prompt);
        attend_decodes(&args, out.clone(), elem, decode);
        out
    }

    fn copy_blocks(args: CopyBlocksArgs<Self>) -> KvCache<Self> {
        let cache = plain(&args.cache);
        let Some(elem) = elem_type(cache.dtype) else {
            return reference::paged::copy_blocks::<Self>(args);
        };
        copy(&args, cache, elem);
        args.cache
    }
}

/// The cache's buffer. Whoever holds it beside, and that is only its layer, sees what the kernels write.
fn plain(cache: &KvCache<CubeBackend>) -> CubeTensor {
    match cache {
        KvCache::Plain(values) => {
            assert!(values.is_contiguous(), "keys and values without gaps");
            values.clone()
        }
        KvCache::Panels(_) => panic!("panels of keys and values away from the CPU's kernels"),
    }
}

/// The smallest shape with room for the heads that share a head of keys, or for as many of them as any has.
fn decode_shape(heads: KvHeads) -> Option<DecodeShape> {
    let wide_enough = || DECODE_SHAPES.into_iter().filter(|shape| shape.head_room >= heads.width);
    let room = wide_enough().map(|shape| shape.head_room).min()?;
    let mut shapes = wide_enough().filter(|shape| shape.head_room == room);
    shapes.clone().find(|shape| shape.rows >= heads.sharing()).or_else(|| shapes.next_back())
}

pub(super) fn store(args: StoreKvArgs<CubeBackend>, q: CubeTensor, elem: ElemType) {
    let StoreKvArgs { qkv, cache, shape, rows, rotary, head_norms } = args;
    let KvHeads { kv, width, .. } = shape.heads;
    let query = q.shape()[1] / width;
    // As wide as a vector of any dtype: bindings narrower than their element are refused.
    let nothing = || RmsNormTensors { gamma: empty(&qkv, [16].into(), qkv.dtype), epsilon: 0.0 };
    let (norms, q_norm, k_norm) = match head_norms {
        HeadNormTensors::Absent => (false, nothing(), nothing()),
        HeadNormTensors::Present { q, k } => (true, q, k),
    };
    let variant = KernelVariant { elem, lanes: 1, form: Form::Paged(PagedForm::Store { norms }) };
    let half = rotary.cos.shape()[1];
    let count = qkv.shape()[0];
    // Without rotary columns there is no angle to bind.
    let [cos, sin] =
        [rotary.cos, rotary.sin].map(|t| if half == 0 { empty(&qkv, [16].into(), DType::F32) } else { t });
    store_kv::launch(
        &qkv.client.clone(),
        grid(count, query + 2 * kv),
        variant.admit(),
        contiguous(qkv).into_buffer_arg(),
        rows.values.into_buffer_arg(),
        contiguous(cos).into_buffer_arg(),
        contiguous(sin).into_buffer_arg(),
        contiguous(q_norm.gamma).into_buffer_arg(),
        contiguous(k_norm.gamma).into_buffer_arg(),
        plain(&cache).into_buffer_arg(),
        q.into_buffer_arg(),
        StoreShapeLaunch::new(
            count as u32,
            query as u32,
            kv as u32,
            width as u32,
            half as u32,
            q_norm.epsilon,
            k_norm.epsilon,
        ),
        norms,
        elem,
    );
}

fn heads(args: &AttentionPagedArgs<CubeBackend>) -> PagedShapeLaunch {
    let KvHeads { query, kv, width } = args.attention.heads;
    let window = args.attention.window.map_or(u32::MAX, |window| u32::try_from(window).unwrap_or(u32::MAX));
    let block_size = args.shape.block_size as u32;
    PagedShapeLaunch::new(query as u32, kv as u32, width as u32, args.attention.scale, block_size, window)
}

pub(super) fn attend_prompts(
    args: &AttentionPagedArgs<CubeBackend>,
    out: CubeTensor,
    elem: ElemType,
    shape: AttentionShape,
) {
    let (index, heads_of) = (args.rows.index, args.attention.heads);
    if index.prompts == 0 {
        return;
    }
    let variant = KernelVariant { elem, lanes: 1, form: Form::Paged(PagedForm::Prompt(shape)) };
    let parts = (PROMPT_ROWS * heads_of.sharing()).div_ceil(shape.block);
    attention_prompt::launch(
        &out.client.clone(),
        grid(index.prompts * parts, heads_of.kv),
        variant.admit(),
        contiguous(args.q.clone()).into_buffer_arg(),
        plain(&args.cache).into_buffer_arg(),
        args.rows.values.clone().into_buffer_arg(),
        out.into_buffer_arg(),
        heads(args),
        index.prompts_at as u32,
        index.prompts as u32,
        parts as u32,
        shape,
        elem,
    );
}

pub(super) fn attend_decodes(
    args: &AttentionPagedArgs<CubeBackend>,
    out: CubeTensor,
    elem: ElemType,
    shape: DecodeShape,
) {
    let (index, KvHeads { query, kv, width }) = (args.rows.index, args.attention.heads);
    if index.decodes == 0 {
        return;
    }
    let lanes = lanes([width]);
    let parts = (query / kv).div_ceil(shape.rows);
    let context = empty(&out, [index.chunks, query * width].into(), DType::F32);
    let stats = empty(&out, [index.chunks, query * 2].into(), DType::F32);
    let variant = KernelVariant { elem, lanes, form: Form::Paged(PagedForm::DecodeChunk(shape)) };
    decode_chunk::launch(
        &out.client.clone(),
        grid(index.chunks, kv * parts),
        variant.admit(),
        contiguous(args.q.clone()).into_buffer_arg(),
        plain(&args.cache).into_buffer_arg(),
        args.rows.values.clone().into_buffer_arg(),
        context.clone().into_buffer_arg(),
        stats.clone().into_buffer_arg(),
        heads(args),
        index.chunks_at as u32,
        index.chunks as u32,
        parts as u32,
        shape,
        elem,
        lanes,
    );
    let variant = KernelVariant { elem, lanes: 1, form: Form::Paged(PagedForm::DecodeSum) };
    decode_sum::launch(
        &out.client.clone(),
        grid(index.decodes, query),
        variant.admit(),
        context.into_buffer_arg(),
        stats.into_buffer_arg(),
        args.rows.values.clone().into_buffer_arg(),
        out.into_buffer_arg(),
        heads(args),
        index.decodes_at as u32,
        index.decodes as u32,
        elem,
    );
}

fn copy(args: &CopyBlocksArgs<CubeBackend>, cache: CubeTensor, elem: ElemType) {
    let values = args.shape.block_size * cache.shape()[1];
    let lanes = lanes([values]);
    let vectors = values / lanes;
    if vectors == 0 {
        return;
    }
    let variant = KernelVariant { elem, lanes, form: Form::Paged(PagedForm::CopyBlocks) };
    let parts = vectors.div_ceil(COPY_UNITS).min(COPY_PARTS);
    copy_blocks::launch(
        &cache.client.clone(),
        grid(args.host.len(), parts),
        variant.admit(),
        cache.into_buffer_arg(),
        args.copies.clone().into_buffer_arg(),
        args.host.len() as u32,
        vectors as u32,
        (parts * COPY_UNITS) as u32,
        elem,
        lanes,
    );
}
