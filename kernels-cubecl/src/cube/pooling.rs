//! One vector per sequence.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;

use super::grid::grid;
use super::kernels::pool::pool_rows;
use super::row_shape::{lanes, row_shape};
use super::tensors::{contiguous, elem_type, empty};
use super::variant::{Form, KernelVariant};
use crate::ops::pooling::{PoolArgs, PoolingOps};
use crate::reference;

impl PoolingOps for CubeBackend {
    fn pool(args: PoolArgs<Self>) -> FloatTensor<Self> {
        let width = args.hidden.shape()[1];
        let lanes = lanes([width]);
        let (Some(elem), Some(row)) = (elem_type(args.hidden.dtype), row_shape(width, lanes)) else {
            return reference::pooling::pool::<Self>(args);
        };
        let PoolArgs { hidden, sequences, pooling, normalize } = args;
        let count = sequences.host.len() - 1;
        let out = empty(&hidden, [count, width].into(), DType::F32);
        if count == 0 {
            return out;
        }
        let variant = KernelVariant { elem, lanes, form: Form::Pool { pooling, row } };
        pool_rows::launch(
            &out.client,
            grid(count, 1),
            variant.admit(),
            contiguous(hidden).into_buffer_arg(),
            sequences.index.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count as u32,
            width as u32,
            u32::from(normalize),
            pooling,
            row,
            elem,
            lanes,
        );
        out
    }
}
