//! Tensors on CubeCL devices as kernels want them.

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::{ElemType, FloatKind};

/// The kernel's name for a dtype that our kernels compute in.
pub(crate) fn elem_type(dtype: DType) -> Option<ElemType> {
    let kind = match dtype {
        DType::F32 => FloatKind::F32,
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        _ => return None,
    };
    Some(ElemType::Float(kind))
}

/// Row-major, copied only when it is a view that is not.
pub(crate) fn contiguous(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(tensor)
}

/// Values from one row of `[rows, width]` to the next, where rows are whole vectors of `lanes` apart: CUDA's allocator pads
/// rows. `None` for views that are not rows.
pub(crate) fn row_stride(tensor: &CubeTensor, lanes: usize) -> Option<usize> {
    match &tensor.meta.strides()[..] {
        [row, 1] if row.is_multiple_of(lanes) => Some(*row),
        _ => None,
    }
}

/// A new dense tensor beside `like` that nobody else holds; its values are whatever lay there.
///
/// # Panics
/// When it has more values than the kernels' 32-bit indices reach.
pub(crate) fn empty(like: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    assert!(u32::try_from(shape.num_elements()).is_ok(), "a tensor of {shape:?} is beyond 32-bit indices");
    let bytes = shape.num_elements() * dtype.size();
    // A buffer of no bytes cannot be bound.
    let handle = like.client.empty(bytes.max(4));
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), shape, handle, dtype)
}
