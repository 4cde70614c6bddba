//! Normalisation of rows by their root mean square.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension};
use burn::tensor::Tensor;

use crate::reference;

/// Parameters of a root mean square normalisation as the ops see them.
#[derive(Clone, Debug, ExtensionType)]
pub struct RmsNormTensors<B: Backend> {
    /// Weight, `[width]`.
    pub gamma: FloatTensor<B>,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// `gamma x / sqrt(mean(x^2) + epsilon)` as the ops see it.
#[derive(Clone, Debug, ExtensionType)]
pub struct RmsNormArgs<B: Backend> {
    /// Rows, `[T, width]`.
    pub x: FloatTensor<B>,
    /// The norm.
    #[extension_type]
    pub norm: RmsNormTensors<B>,
}

/// Root mean square normalisation.
#[backend_extension(Cube: cfg(feature = "cube"), Flex)]
pub trait RmsNormOps: Backend {
    /// See [`RmsNormArgs`]; gives `[T, width]` in the dtype of the rows, computed in f32.
    fn rms_norm(#[extension_type] args: RmsNormArgs<Self>) -> FloatTensor<Self> {
        reference::rms_norm::rms_norm::<Self>(args)
    }
}

/// Parameters of a root mean square normalisation.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// Weight, `[width]`.
    pub gamma: Tensor<1>,
    /// Added to the mean square.
    pub epsilon: f32,
}

impl RmsNorm {
    pub(crate) fn to_dispatch(&self) -> RmsNormTensors<Dispatch> {
        RmsNormTensors { gamma: self.gamma.clone().into_dispatch(), epsilon: self.epsilon }
    }
}

/// `gamma x / sqrt(mean(x^2) + epsilon)` of each row of `x`, `[T, width]` (RMSNorm, arXiv 1910.07467), in f32 and rounded
/// once at the end.
pub fn rms_norm(x: Tensor<2>, norm: &RmsNorm) -> Tensor<2> {
    let args = RmsNormArgs { x: x.into_dispatch(), norm: norm.to_dispatch() };
    Tensor::from_dispatch(<Dispatch as RmsNormOps>::rms_norm(args))
}
