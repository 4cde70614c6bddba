//! Root mean square normalisation in plain tensor operations.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};

use super::{as_row, cast, widen};
use crate::ops::rms_norm::RmsNormArgs;

pub(crate) fn rms_norm<B: Backend>(args: RmsNormArgs<B>) -> FloatTensor<B> {
    let RmsNormArgs { x, norm } = args;
    let dtype = x.dtype();
    let x = widen::<B>(x);
    let squares = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 1);
    let root = B::float_sqrt(B::float_add_scalar(squares, norm.epsilon.into()));
    let scaled = B::float_mul(B::float_div(x, root), as_row::<B>(widen::<B>(norm.gamma)));
    cast::<B>(scaled, dtype)
}
