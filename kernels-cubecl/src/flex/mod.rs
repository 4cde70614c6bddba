//! Flex, Burn's CPU backend: slices into `polylora-kernels-cpu`. What is not f32 takes the reference.

mod attention;
mod embedding;
mod linear;
mod pooling;

use burn::tensor::{DType, Shape};
use burn_flex::FlexTensor;

/// A contiguous f32 tensor over `values`.
fn from_values(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(burn::tensor::TensorData::new(values, shape))
}

/// The tensor's values, row-major, copied only when it is a view that is not contiguous.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    tensor.to_contiguous()
}

/// The values of a contiguous f32 tensor.
fn values(tensor: &FlexTensor) -> &[f32] {
    let start = tensor.layout().start_offset();
    &tensor.storage::<f32>()[start..start + tensor.layout().num_elements()]
}

fn is_f32(tensor: &FlexTensor) -> bool {
    tensor.dtype() == DType::F32
}
