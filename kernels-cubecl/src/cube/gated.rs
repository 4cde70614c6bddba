//! Gated linear units on CubeCL devices.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::grid::grid;
use super::kernels::gated::gated;
use super::row_shape::lanes;
use super::tensors::{contiguous, elem_type, empty, row_stride};
use super::variant::{END_UNITS, Form, KernelVariant};
use crate::ops::gated::{GatedArgs, GatedOps};
use crate::reference;

impl GatedOps for CubeBackend {
    fn gated(args: GatedArgs<Self>) -> FloatTensor<Self> {
        let (shape, dtype) = (args.gate_up.shape(), args.gate_up.dtype);
        let Some(elem) = elem_type(dtype) else {
            return reference::gated::gated::<Self>(args);
        };
        let (rows, width) = (shape[0], shape[1] / 2);
        let out = empty(&args.gate_up, [rows, width].into(), dtype);
        if rows * width > 0 {
            let variant = KernelVariant {
                elem,
                lanes: lanes([width]),
                form: Form::Gated { activation: args.activation },
            };
            launch(args, out.clone(), variant);
        }
        out
    }
}

/// The gated rows into `out`, `[T, width]`.
pub(super) fn launch(args: GatedArgs<CubeBackend>, out: CubeTensor, variant: KernelVariant) {
    let GatedArgs { gate_up, activation } = args;
    let (rows, width) = (out.shape()[0], out.shape()[1]);
    let (gate_up, stride) = match row_stride(&gate_up, variant.lanes) {
        Some(stride) => (gate_up, stride),
        None => (contiguous(gate_up), 2 * width),
    };
    gated::launch(
        &out.client.clone(),
        grid(rows, (width / variant.lanes).div_ceil(END_UNITS)),
        variant.admit(),
        gate_up.into_buffer_arg(),
        out.into_buffer_arg(),
        rows as u32,
        width as u32,
        stride as u32,
        activation,
        variant.elem,
        variant.lanes,
    );
}
