//! Keys and values in blocks: writing them, and attention over them (PagedAttention, arXiv 2309.06180).

use std::collections::HashSet;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension};
use burn::tensor::{DType, Int, Tensor, TensorData};
use polylora_kernels_cpu::{KvHeads, KvShape};

use crate::kv_layer::{KvCache, KvLayer};
use crate::ops::rms_norm::{RmsNorm, RmsNormTensors};
use crate::paged_rows::{PagedRows, PagedRowsIndex};
use crate::reference;

/// The angles of rotary positions as the ops see them.
#[derive(Clone, Debug, ExtensionType)]
pub struct RotaryTensors<B: Backend> {
    /// Cosines, `[positions, rotary width / 2]`, f32.
    pub cos: FloatTensor<B>,
    /// Sines, likewise.
    pub sin: FloatTensor<B>,
}

/// Norms of single heads as the ops see them.
#[derive(Clone, Debug, ExtensionType)]
pub enum HeadNormTensors<B: Backend> {
    /// None.
    Absent,
    /// Of queries and of keys.
    Present {
        /// Of each head of queries.
        #[extension_type]
        q: RmsNormTensors<B>,
        /// Of each head of keys.
        #[extension_type]
        k: RmsNormTensors<B>,
    },
}

/// [`store_kv`] as the ops see it.
#[derive(Clone, Debug, ExtensionType)]
pub struct StoreKvArgs<B: Backend> {
    /// Queries, keys and values side by side, `[T, (query + 2 kv) * width]`.
    pub qkv: FloatTensor<B>,
    /// The cache, handed over to be written in place.
    #[extension_type]
    pub cache: KvCache<B>,
    /// Its size.
    pub shape: KvShape,
    /// The rows.
    #[extension_type]
    pub rows: PagedRowsIndex<B>,
    /// Rotation of queries and keys.
    #[extension_type]
    pub rotary: RotaryTensors<B>,
    /// Norms before it.
    #[extension_type]
    pub head_norms: HeadNormTensors<B>,
}

/// What [`store_kv`] gives as the ops see it.
#[derive(Clone, Debug, ExtensionType)]
pub struct StoredKv<B: Backend> {
    /// Queries, normed and rotated, `[T, query * width]`.
    pub q: FloatTensor<B>,
    /// The cache given back.
    #[extension_type]
    pub cache: KvCache<B>,
}

/// [`attention_paged`] as the ops see it.
#[derive(Clone, Debug, ExtensionType)]
pub struct AttentionPagedArgs<B: Backend> {
    /// Queries, `[T, query * width]`.
    pub q: FloatTensor<B>,
    /// The cache.
    #[extension_type]
    pub cache: KvCache<B>,
    /// Its size.
    pub shape: KvShape,
    /// The rows.
    #[extension_type]
    pub rows: PagedRowsIndex<B>,
    /// Scale and window.
    pub attention: PagedAttention,
}

/// [`copy_blocks`] as the ops see it.
#[derive(Clone, Debug, ExtensionType)]
pub struct CopyBlocksArgs<B: Backend> {
    /// The cache, handed over to be written in place.
    #[extension_type]
    pub cache: KvCache<B>,
    /// Its size.
    pub shape: KvShape,
    /// Pairs of blocks, from and to, `[copies * 2]`, i32.
    pub copies: IntTensor<B>,
    /// The same on the host.
    pub host: Vec<(u32, u32)>,
}

/// Paged keys and values. Sums are in f32 whatever the dtype; the cache has the dtype of the rows.
#[backend_extension(Cube: cfg(feature = "cube"), Flex)]
pub trait PagedOps: Backend {
    /// See [`StoreKvArgs`].
    fn store_kv(#[extension_type] args: StoreKvArgs<Self>) -> StoredKv<Self> {
        reference::paged::store_kv::<Self>(args)
    }

    /// See [`AttentionPagedArgs`]; gives `[T, query * width]`.
    fn attention_paged(#[extension_type] args: AttentionPagedArgs<Self>) -> FloatTensor<Self> {
        reference::paged::attention_paged::<Self>(args)
    }

    /// See [`CopyBlocksArgs`]; gives the cache back.
    fn copy_blocks(#[extension_type] args: CopyBlocksArgs<Self>) -> KvCache<Self> {
        reference::paged::copy_blocks::<Self>(args)
    }
}

/// Rotary positions (RoFormer, arXiv 2104.09864): of each head's first `rotary width` columns, those of the first half are
/// rotated with those of the second, as the checkpoints of Hugging Face have them; other columns stay as they are.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// Cosines by position, `[positions, rotary width / 2]`, f32, times whatever factor a scaling of positions asks for.
    pub cos: Tensor<2>,
    /// Sines, likewise.
    pub sin: Tensor<2>,
}

/// Norms of each head of queries and of keys by itself, `[width]`.
#[derive(Clone, Debug)]
pub struct HeadNorms {
    /// Of queries.
    pub q: RmsNorm,
    /// Of keys.
    pub k: RmsNorm,
}

/// What becomes of a fused projection's queries, keys and values.
#[derive(Clone, Debug)]
pub struct QkvForm {
    /// Heads.
    pub heads: KvHeads,
    /// Rotation of queries and keys.
    pub rotary: Rotary,
    /// Norms before it.
    pub head_norms: Option<HeadNorms>,
}

/// Heads, scale and window of a causal attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PagedAttention {
    /// Heads.
    pub heads: KvHeads,
    /// Factor on the scores, `1 / sqrt(width)`.
    pub scale: f32,
    /// How many positions a row sees, its own included; without it, all up to its own.
    pub window: Option<usize>,
}

/// Norms and rotates queries and keys in f32, writes keys and values into the rows' slots of `cache` and gives the queries,
/// `[T, query * width]`. `qkv` is `[T, (query + 2 kv) * width]`: queries, keys and values side by side, as a fused projection
/// leaves them.
///
/// # Panics
/// When shapes or dtypes are not those of the cache, or a row's position is beyond the rotary tables.
pub fn store_kv(qkv: Tensor<2>, cache: &mut KvLayer, rows: &PagedRows, form: &QkvForm) -> Tensor<2> {
    check_rows(cache, rows, form.heads, qkv.dtype());
    assert_eq!(qkv.dims(), [rows.rows(), form.heads.qkv_columns()], "queries, keys and values side by side");
    let Rotary { cos, sin } = &form.rotary;
    assert_eq!(cos.dims(), sin.dims(), "cosines and sines");
    assert!(2 * cos.dims()[1] <= form.heads.width, "more rotary columns than a head has");
    let most = rows.batch().positions().iter().max().map_or(0, |most| *most as usize + 1);
    assert!(most <= cos.dims()[0], "{most} positions, the rotary tables have {}", cos.dims()[0]);
    let shape = cache.shape();
    let rotary = RotaryTensors { cos: cos.clone().into_dispatch(), sin: sin.clone().into_dispatch() };
    let head_norms = match &form.head_norms {
        None => HeadNormTensors::Absent,
        Some(norms) => HeadNormTensors::Present { q: norms.q.to_dispatch(), k: norms.k.to_dispatch() },
    };
    let (qkv, rows) = (qkv.into_dispatch(), rows.to_dispatch());
    cache.write(|cache| {
        let args = StoreKvArgs { qkv, cache, shape, rows, rotary, head_norms };
        let StoredKv { q, cache } = <Dispatch as PagedOps>::store_kv(args);
        (Tensor::from_dispatch(q), cache)
    })
}

/// Causal attention of each row to the positions of its sequence up to its own, whose keys and values lie in `cache`; the
/// rows' own have been stored. `q` and the result are `[T, query * width]`.
///
/// A row's result depends on nothing but its sequence up to it: neither on the rows beside it nor on how many of its
/// sequence come at once.
///
/// # Panics
/// When shapes or dtypes are not those of the cache, or the window is of no position.
pub fn attention_paged(
    q: Tensor<2>,
    cache: &KvLayer,
    rows: &PagedRows,
    attention: PagedAttention,
) -> Tensor<2> {
    let heads = attention.heads;
    check_rows(cache, rows, heads, q.dtype());
    assert_eq!(q.dims(), [rows.rows(), heads.query * heads.width], "queries");
    assert!(attention.window != Some(0), "a window of no position");
    Tensor::from_dispatch(<Dispatch as PagedOps>::attention_paged(AttentionPagedArgs {
        q: q.into_dispatch(),
        cache: cache.cache(),
        shape: cache.shape(),
        rows: rows.to_dispatch(),
        attention,
    }))
}

/// Copies whole blocks, `(from, to)` each: what a shared block needs before one of its sequences writes to it. No block is
/// both read and written, and none written twice.
///
/// # Panics
/// When a block is not in the cache, or written and used otherwise.
pub fn copy_blocks(cache: &mut KvLayer, copies: &[(u32, u32)]) {
    if copies.is_empty() {
        return;
    }
    let shape = cache.shape();
    let read: HashSet<u32> = copies.iter().map(|(from, _)| *from).collect();
    let mut written = HashSet::new();
    for (from, to) in copies {
        let most = (*from).max(*to) as usize;
        assert!(most < shape.blocks, "block {most} of {}", shape.blocks);
        assert!(!read.contains(to) && written.insert(*to), "block {to} is written and used otherwise");
    }
    let pairs: Vec<i32> = copies.iter().flat_map(|(from, to)| [*from as i32, *to as i32]).collect();
    let data = TensorData::new(pairs, [2 * copies.len()]);
    let pairs = Tensor::<1, Int>::from_data(data, (cache.device(), DType::I32)).into_dispatch();
    cache.write(|cache| {
        let args = CopyBlocksArgs { cache, shape, copies: pairs, host: copies.to_vec() };
        ((), <Dispatch as PagedOps>::copy_blocks(args))
    });
}

fn check_rows(cache: &KvLayer, rows: &PagedRows, heads: KvHeads, dtype: DType) {
    let shape = cache.shape();
    let of_cache = (shape.heads.kv, shape.heads.width);
    assert_eq!((heads.kv, heads.width), of_cache, "the cache is of other heads");
    assert!(heads.kv > 0 && heads.query.is_multiple_of(heads.kv), "heads of queries per head of keys");
    assert_eq!(dtype, cache.dtype(), "the cache has another dtype");
    let batch = rows.batch();
    assert_eq!(batch.block_size(), shape.block_size, "blocks of another size");
    assert!(batch.blocks() <= shape.blocks, "{} blocks of {}", batch.blocks(), shape.blocks);
}
