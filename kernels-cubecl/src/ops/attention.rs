//! Attention over packed rows.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension};
use burn::tensor::Tensor;

use crate::HeadShape;
use crate::reference;
use crate::sequences::{SequenceBounds, Sequences};

/// What a row may attend to within its own sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// Every row of the sequence.
    Full,
}

/// Attention over packed rows as the ops see it.
#[derive(Clone, Debug, ExtensionType)]
pub struct AttentionArgs<B: Backend> {
    /// Queries, keys and values side by side, as a fused projection leaves them, `[T, 3 * heads * width]`.
    pub qkv: FloatTensor<B>,
    /// The sequences.
    #[extension_type]
    pub sequences: SequenceBounds<B>,
    /// Heads.
    pub heads: HeadShape,
    /// Factor on the scores.
    pub scale: f32,
    /// What a row sees.
    pub mask: AttentionMask,
}

/// Attention.
#[backend_extension(Cube: cfg(feature = "cube"), Flex)]
pub trait AttentionOps: Backend {
    /// See [`AttentionArgs`]; gives `[T, heads * width]`.
    fn attention_packed(#[extension_type] args: AttentionArgs<Self>) -> FloatTensor<Self> {
        reference::attention::attention_packed::<Self>(args)
    }
}

/// Heads, scale and mask of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Heads.
    pub heads: HeadShape,
    /// Factor on the scores, `1 / sqrt(width)`.
    pub scale: f32,
    /// What a row sees.
    pub mask: AttentionMask,
}

/// `softmax(scale q k^T) v` within each sequence; `qkv` is `[T, 3 * heads * width]`: queries, keys, values side by side,
/// as a fused projection leaves them.
pub fn attention_packed(qkv: Tensor<2>, sequences: &Sequences, attention: Attention) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as AttentionOps>::attention_packed(AttentionArgs {
        qkv: qkv.into_dispatch(),
        sequences: sequences.to_dispatch(),
        heads: attention.heads,
        scale: attention.scale,
        mask: attention.mask,
    }))
}
