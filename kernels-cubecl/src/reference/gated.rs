//! Gated linear units in plain tensor operations.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};

use super::{activate, cast, slice, widen};
use crate::ops::gated::GatedArgs;

pub(crate) fn gated<B: Backend>(args: GatedArgs<B>) -> FloatTensor<B> {
    let (dtype, shape) = (args.gate_up.dtype(), args.gate_up.shape());
    let (rows, width) = (shape[0], shape[1] / 2);
    let half = |from: usize| widen::<B>(slice::<B>(args.gate_up.clone(), &[0..rows, from..from + width]));
    cast::<B>(B::float_mul(activate::<B>(args.activation, half(0)), half(width)), dtype)
}
