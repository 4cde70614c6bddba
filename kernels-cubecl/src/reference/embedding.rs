//! Embedding lookup in plain tensor operations.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};

use super::{cast, layer_norm, widen};
use crate::ops::embedding::{EmbedArgs, EmbedNormArgs};

pub(crate) fn embed<B: Backend>(args: EmbedArgs<B>) -> FloatTensor<B> {
    B::float_select(args.table, 0, args.ids)
}

pub(crate) fn embed_norm<B: Backend>(args: EmbedNormArgs<B>) -> FloatTensor<B> {
    let dtype = args.words.dtype();
    let words = widen::<B>(B::float_select(args.words, 0, args.ids));
    let positions = widen::<B>(B::float_select(args.positions, 0, args.position_ids));
    cast::<B>(layer_norm::<B>(B::float_add(words, positions), args.norm), dtype)
}
