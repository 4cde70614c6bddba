//! One vector per sequence.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension};
use burn::tensor::Tensor;

use crate::Pooling;
use crate::reference;
use crate::sequences::{SequenceBounds, Sequences};

/// Pooling as the ops see it.
#[derive(Clone, Debug, ExtensionType)]
pub struct PoolArgs<B: Backend> {
    /// Rows, `[T, width]`.
    pub hidden: FloatTensor<B>,
    /// The sequences.
    #[extension_type]
    pub sequences: SequenceBounds<B>,
    /// How rows become one.
    pub pooling: Pooling,
    /// Whether each vector is divided by its L2 norm.
    pub normalize: bool,
}

/// Pooling.
#[backend_extension(Cube: cfg(feature = "cube"), Flex)]
pub trait PoolingOps: Backend {
    /// See [`PoolArgs`]; gives `[B, width]`.
    fn pool(#[extension_type] args: PoolArgs<Self>) -> FloatTensor<Self> {
        reference::pooling::pool::<Self>(args)
    }
}

/// `[T, width]` to `[B, width]`, L2-normalised when `normalize` says so.
pub fn pool(hidden: Tensor<2>, sequences: &Sequences, pooling: Pooling, normalize: bool) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as PoolingOps>::pool(PoolArgs {
        hidden: hidden.into_dispatch(),
        sequences: sequences.to_dispatch(),
        pooling,
        normalize,
    }))
}
