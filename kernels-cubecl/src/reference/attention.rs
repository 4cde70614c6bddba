//! Attention in plain tensor operations, one sequence after the other.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};

use super::{cast, slice, softmax, widen};
use crate::ops::attention::{AttentionArgs, AttentionMask};

pub(crate) fn attention_packed<B: Backend>(args: AttentionArgs<B>) -> FloatTensor<B> {
    let AttentionArgs { qkv, sequences, heads, scale, mask: AttentionMask::Full } = args;
    let dtype = qkv.dtype();
    let width = heads.heads * heads.width;
    // [heads, rows, head width] of the queries, keys or values
    let by_head = |part: usize, start: usize, end: usize| {
        let rows = slice::<B>(qkv.clone(), &[start..end, part * width..(part + 1) * width]);
        let split = B::float_reshape(rows, [end - start, heads.heads, heads.width].into());
        B::float_swap_dims(split, 0, 1)
    };
    let contexts = sequences.host.windows(2).map(|bounds| {
        let (start, end) = (bounds[0] as usize, bounds[1] as usize);
        let keys = B::float_swap_dims(by_head(1, start, end), 1, 2);
        let scores = widen::<B>(B::float_matmul(by_head(0, start, end), keys));
        let weights = cast::<B>(softmax::<B>(B::float_mul_scalar(scores, scale.into())), dtype);
        let context = B::float_matmul(weights, by_head(2, start, end));
        B::float_reshape(B::float_swap_dims(context, 0, 1), [end - start, width].into())
    });
    B::float_cat(contexts.collect(), 0)
}
