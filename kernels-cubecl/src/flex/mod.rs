//! Flex, Burn's CPU backend: slices into `polylora-kernels-cpu`. What is neither f32 nor bf16 takes the reference.

mod attention;
mod buffers;
mod embedding;
mod gated;
mod linear;
mod paged;
mod pooling;
mod rms_norm;

use std::borrow::Cow;

use burn::tensor::{DType, Shape, bf16};
use burn_flex::FlexTensor;

use buffers::Value;

/// A contiguous tensor over `values`.
fn from_values<E: Value>(values: Vec<E>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(burn::tensor::TensorData::new(values, shape))
}

/// The tensor's values, row-major, copied only when it is a view that is not contiguous.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    tensor.to_contiguous()
}

/// The values of a contiguous tensor of `E`.
fn values<E: Value>(tensor: &FlexTensor) -> &[E] {
    let start = tensor.layout().start_offset();
    &tensor.storage::<E>()[start..start + tensor.layout().num_elements()]
}

/// The values of a small tensor in f32, whichever of the kernels' dtypes it has.
fn in_f32(tensor: &FlexTensor) -> Cow<'_, [f32]> {
    if tensor.dtype() == DType::F32 && tensor.layout().is_contiguous() {
        return Cow::Borrowed(values(tensor));
    }
    let tensor = tensor.to_contiguous();
    Cow::Owned(match tensor.dtype() {
        DType::F32 => values::<f32>(&tensor).to_vec(),
        _ => values::<bf16>(&tensor).iter().map(|v| v.to_f32()).collect(),
    })
}

/// The dtypes that the kernels compute with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KernelDType {
    F32,
    Bf16,
}

/// The dtype of rows when the kernels know it, and the other tensors' dtypes too.
fn kernel_dtype<'a>(
    rows: &FlexTensor,
    others: impl IntoIterator<Item = &'a FlexTensor>,
) -> Option<KernelDType> {
    let dtype = |tensor: &FlexTensor| match tensor.dtype() {
        DType::F32 => Some(KernelDType::F32),
        DType::BF16 => Some(KernelDType::Bf16),
        _ => None,
    };
    others.into_iter().all(|other| dtype(other).is_some()).then(|| dtype(rows)).flatten()
}
