//! An argument that may be absent, in the form that crosses the dispatch boundary.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType};
use burn::tensor::Tensor;

/// A float tensor or none.
#[derive(Clone, Debug, ExtensionType)]
pub enum OptionalTensor<B: Backend> {
    /// None.
    Absent,
    /// The tensor.
    Present(FloatTensor<B>),
}

impl<B: Backend> OptionalTensor<B> {
    /// As an option of a reference.
    pub fn as_option(&self) -> Option<&FloatTensor<B>> {
        match self {
            OptionalTensor::Absent => None,
            OptionalTensor::Present(tensor) => Some(tensor),
        }
    }

    /// As an option.
    pub fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            OptionalTensor::Absent => None,
            OptionalTensor::Present(tensor) => Some(tensor),
        }
    }
}

impl<const D: usize> From<Option<Tensor<D>>> for OptionalTensor<Dispatch> {
    fn from(tensor: Option<Tensor<D>>) -> Self {
        tensor.map_or(OptionalTensor::Absent, |t| OptionalTensor::Present(t.into_dispatch()))
    }
}
