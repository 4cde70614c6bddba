//! Root mean square normalisation on CubeCL devices.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::grid::grid;
use super::kernels::rms_norm::rms_norm;
use super::row_shape::lanes;
use super::tensors::{contiguous, elem_type, empty, row_stride};
use super::variant::{Form, KernelVariant, rms_norm_units};
use crate::ops::rms_norm::{RmsNormArgs, RmsNormOps};
use crate::reference;

impl RmsNormOps for CubeBackend {
    fn rms_norm(args: RmsNormArgs<Self>) -> FloatTensor<Self> {
        let (shape, dtype) = (args.x.shape(), args.x.dtype);
        let (Some(elem), true) = (elem_type(dtype), args.norm.gamma.dtype == dtype) else {
            return reference::rms_norm::rms_norm::<Self>(args);
        };
        assert_eq!(args.norm.gamma.shape()[0], shape[1], "a norm as wide as the rows");
        let out = empty(&args.x, shape.clone(), dtype);
        if shape.num_elements() > 0 {
            let lanes = lanes([shape[1]]);
            let units = rms_norm_units(shape[1] / lanes);
            launch(args, out.clone(), KernelVariant { elem, lanes, form: Form::RmsNorm { units } }, units);
        }
        out
    }
}

/// The normalised rows into `out`, `[T, width]`.
pub(super) fn launch(args: RmsNormArgs<CubeBackend>, out: CubeTensor, variant: KernelVariant, units: usize) {
    let RmsNormArgs { x, norm } = args;
    let (rows, width) = (x.shape()[0], x.shape()[1]);
    let (x, stride) = match row_stride(&x, variant.lanes) {
        Some(stride) => (x, stride),
        None => (contiguous(x), width),
    };
    rms_norm::launch(
        &out.client.clone(),
        grid(rows, 1),
        variant.admit(),
        x.into_buffer_arg(),
        contiguous(norm.gamma).into_buffer_arg(),
        norm.epsilon,
        out.into_buffer_arg(),
        rows as u32,
        width as u32,
        stride as u32,
        units,
        variant.elem,
        variant.lanes,
    );
}
