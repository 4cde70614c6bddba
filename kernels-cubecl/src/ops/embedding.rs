//! Embedding lookup: rows of a table, or their sum with positions under a norm.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension};
use burn::tensor::{Int, Tensor};

use crate::reference;
use crate::weight::{Norm, NormTensors};

/// `norm(words[ids] + positions[position_ids])` as the ops see it.
#[derive(Clone, Debug, ExtensionType)]
pub struct EmbedNormArgs<B: Backend> {
    /// Word table, `[vocabulary, width]`.
    pub words: FloatTensor<B>,
    /// Position table, `[positions, width]`.
    pub positions: FloatTensor<B>,
    /// Token ids, `[T]`.
    pub ids: IntTensor<B>,
    /// Positions, `[T]`.
    pub position_ids: IntTensor<B>,
    /// The norm.
    #[extension_type]
    pub norm: NormTensors<B>,
}

/// Rows of a table as the ops see them.
#[derive(Clone, Debug, ExtensionType)]
pub struct EmbedArgs<B: Backend> {
    /// Table, `[vocabulary, width]`.
    pub table: FloatTensor<B>,
    /// Token ids, `[T]`.
    pub ids: IntTensor<B>,
}

/// Embedding lookup.
#[backend_extension(Cube: cfg(feature = "cube"), Flex)]
pub trait EmbeddingOps: Backend {
    /// See [`EmbedArgs`]; gives `[T, width]`.
    fn embed(#[extension_type] args: EmbedArgs<Self>) -> FloatTensor<Self> {
        reference::embedding::embed::<Self>(args)
    }

    /// See [`EmbedNormArgs`]; gives `[T, width]`.
    fn embed_norm(#[extension_type] args: EmbedNormArgs<Self>) -> FloatTensor<Self> {
        reference::embedding::embed_norm::<Self>(args)
    }
}

/// The tables of an embedding layer.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// Word table, `[vocabulary, width]`.
    pub words: Tensor<2>,
    /// Position table, `[positions, width]`; what is the same for every token (a token type) is added to it at load.
    pub positions: Tensor<2>,
    /// The norm.
    pub norm: Norm,
}

/// The rows `ids`, `[T]`, of `table`, `[vocabulary, width]`, as they are. The caller has checked that the ids are in the table.
pub fn embed(ids: Tensor<1, Int>, table: &Tensor<2>) -> Tensor<2> {
    let args = EmbedArgs { table: table.clone().into_dispatch(), ids: ids.into_dispatch() };
    Tensor::from_dispatch(<Dispatch as EmbeddingOps>::embed(args))
}

/// Token ids and positions, `[T]` each, to `[T, width]`. The caller has checked that both are in their tables.
pub fn embed_norm(ids: Tensor<1, Int>, position_ids: Tensor<1, Int>, tables: &Embedding) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as EmbeddingOps>::embed_norm(EmbedNormArgs {
        words: tables.words.clone().into_dispatch(),
        positions: tables.positions.clone().into_dispatch(),
        ids: ids.into_dispatch(),
        position_ids: position_ids.into_dispatch(),
        norm: tables.norm.to_dispatch(),
    }))
}
