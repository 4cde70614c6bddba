//! One vector per sequence.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::grid::grid;
use super::kernels::pool::pool_rows;
use super::kernels::row_norm::NormShape;
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
        let bounds = &args.sequences.host;
        assert_eq!(
            bounds[bounds.len() - 1] as usize,
            args.hidden.shape()[0],
            "the sequences are not those of the rows"
        );
        let count = args.sequences.host.len() - 1;
        let out = empty(&args.hidden, [count, width].into(), DType::F32);
        if count > 0 {
            let form = Form::Pool { pooling: args.pooling, row };
            launch(args, out.clone(), KernelVariant { elem, lanes, form }, row);
        }
        out
    }
}

/// The pooled vectors into `out`, `[B, width]` in f32.
pub(super) fn launch(args: PoolArgs<CubeBackend>, out: CubeTensor, variant: KernelVariant, row: NormShape) {
    let PoolArgs { hidden, sequences, pooling, normalize } = args;
    let (count, width) = (sequences.host.len() - 1, hidden.shape()[1]);
    pool_rows::launch(
        &out.client.clone(),
        grid(count, 1),
        variant.admit(),
        contiguous(hidden).into_buffer_arg(),
        sequences.index.into_buffer_arg(),
        out.into_buffer_arg(),
        count as u32,
        width as u32,
        u32::from(normalize),
        pooling,
        row,
        variant.elem,
        variant.lanes,
    );
}
