//! Every op in plain tensor operations: the oracle of the tests and the fallback of every backend. Clear, not fast.
//!
//! Products run in the dtype of their operands, everything after them in f32.

pub(crate) mod attention;
pub(crate) mod embedding;
pub(crate) mod gated;
pub(crate) mod linear;
pub(crate) mod paged;
pub(crate) mod pooling;
pub(crate) mod rms_norm;

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, FloatDType, TensorMetadata};
use burn::tensor::{DType, Slice};

use crate::Activation;
use crate::weight::NormTensors;

/// `tensor[ranges]`.
fn slice<B: Backend>(tensor: FloatTensor<B>, ranges: &[Range<usize>]) -> FloatTensor<B> {
    let slices: Vec<Slice> = ranges.iter().map(|r| Slice::from(r.clone())).collect();
    B::float_slice(tensor, &slices)
}

/// `tensor[ranges] = value`.
fn assign<B: Backend>(
    tensor: FloatTensor<B>,
    ranges: &[Range<usize>],
    value: FloatTensor<B>,
) -> FloatTensor<B> {
    let slices: Vec<Slice> = ranges.iter().map(|r| Slice::from(r.clone())).collect();
    B::float_slice_assign(tensor, &slices, value)
}

fn widen<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    cast::<B>(tensor, DType::F32)
}

fn cast<B: Backend>(tensor: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if tensor.dtype() == dtype { tensor } else { B::float_cast(tensor, FloatDType::from(dtype)) }
}

/// `[width]` as `[1, width]`, for broadcasting over rows.
fn as_row<B: Backend>(vector: FloatTensor<B>) -> FloatTensor<B> {
    let width = vector.shape()[0];
    B::float_reshape(vector, [1, width].into())
}

/// Over the last dimension of `[.., rows, columns]`, three in all.
fn softmax<B: Backend>(scores: FloatTensor<B>) -> FloatTensor<B> {
    let highest = B::float_max_dim(scores.clone(), 2);
    let numerators = B::float_exp(B::float_sub(scores, highest));
    let total = B::float_sum_dim(numerators.clone(), 2);
    B::float_div(numerators, total)
}

/// Layer normalisation over the last dimension of `[T, width]`, in f32.
fn layer_norm<B: Backend>(x: FloatTensor<B>, norm: NormTensors<B>) -> FloatTensor<B> {
    let mean = B::float_mean_dim(x.clone(), 1);
    let centred = B::float_sub(x, mean);
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let deviation = B::float_sqrt(B::float_add_scalar(variance, norm.epsilon.into()));
    let normal = B::float_div(centred, deviation);
    let scaled = B::float_mul(normal, as_row::<B>(widen::<B>(norm.gamma)));
    B::float_add(scaled, as_row::<B>(widen::<B>(norm.beta)))
}

/// `activation(y)` of f32.
fn activate<B: Backend>(activation: Activation, y: FloatTensor<B>) -> FloatTensor<B> {
    match activation {
        Activation::Identity => y,
        Activation::Gelu => B::gelu(y),
        Activation::Relu => B::relu(y),
        Activation::Silu => B::float_mul(y.clone(), B::sigmoid(y)),
        Activation::GeluTanh => {
            let cube = B::float_mul(B::float_mul(y.clone(), y.clone()), y.clone());
            let inner = B::float_add(y.clone(), B::float_mul_scalar(cube, 0.044_715f32.into()));
            let tanh = B::float_tanh(B::float_mul_scalar(inner, 0.797_884_6f32.into()));
            B::float_mul(B::float_mul_scalar(y, 0.5f32.into()), B::float_add_scalar(tanh, 1f32.into()))
        }
    }
}
