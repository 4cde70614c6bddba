//! Base weights in the form that a backend computes with: opaque values made once at load.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType};
use burn::tensor::Tensor;
use polylora_kernels_cpu::PackedMatrix;

use crate::ops::linear::LinearOps;

/// How the values of a base weight are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightCoding {
    /// In the dtype that they are given in.
    #[default]
    Plain,
    /// As 8-bit integers with a scale for each output; rows are quantised as they come. On the CPU only.
    Int8,
}

/// A weight as the ops see it.
#[derive(Clone, Debug, ExtensionType)]
pub enum PreparedWeight<B: Backend> {
    /// A tensor `[out, in]`, for backends and dtypes without a form of their own.
    Plain(FloatTensor<B>),
    /// Packed for this machine's instruction set.
    Packed(Arc<PackedMatrix>),
}

/// A prepared weight of a linear layer, `[out, in]`.
#[derive(Clone, Debug)]
pub struct Weight {
    pub(crate) prepared: PreparedWeight<Dispatch>,
    inputs: usize,
    outputs: usize,
}

impl Weight {
    /// Prepares `weight`, `[out, in]`, for the device it lies on. The given tensor is consumed: no second copy stays.
    pub fn prepare(weight: Tensor<2>) -> Self {
        Self::prepare_as(weight, WeightCoding::Plain)
    }

    /// The same with the values held in a coding.
    pub fn prepare_as(weight: Tensor<2>, coding: WeightCoding) -> Self {
        let [outputs, inputs] = weight.dims();
        let prepared = <Dispatch as LinearOps>::prepare_weight(weight.into_dispatch(), coding);
        Self { prepared, inputs, outputs }
    }

    /// The plain weight, `[out * in]` row-major f32: unpacked or read back from the device.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.prepared {
            PreparedWeight::Packed(packed) => packed.unpack(),
            PreparedWeight::Plain(tensor) => {
                Tensor::<2>::from_dispatch(tensor.clone()).into_data().iter::<f32>().collect()
            }
        }
    }

    /// A weight that stays a plain tensor: what the reference computes with.
    pub fn plain(weight: Tensor<2>) -> Self {
        let [outputs, inputs] = weight.dims();
        Self { prepared: PreparedWeight::Plain(weight.into_dispatch()), inputs, outputs }
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

/// Parameters of a layer normalisation as the ops see them.
#[derive(Clone, Debug, ExtensionType)]
pub struct NormTensors<B: Backend> {
    /// Weight, `[width]`.
    pub gamma: FloatTensor<B>,
    /// Bias, `[width]`.
    pub beta: FloatTensor<B>,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Parameters of a layer normalisation.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Weight, `[width]`.
    pub gamma: Tensor<1>,
    /// Bias, `[width]`.
    pub beta: Tensor<1>,
    /// Added to the variance.
    pub epsilon: f32,
}

impl Norm {
    pub(crate) fn to_dispatch(&self) -> NormTensors<Dispatch> {
        NormTensors {
            gamma: self.gamma.clone().into_dispatch(),
            beta: self.beta.clone().into_dispatch(),
            epsilon: self.epsilon,
        }
    }
}
