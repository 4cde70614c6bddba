//! Linear layers with LoRA and with what follows them.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension};
use burn::tensor::Tensor;

use crate::Activation;
use crate::lora::{LoraBatch, LoraOperand};
use crate::optional::OptionalTensor;
use crate::reference;
use crate::site_group::SiteGroup;
use crate::weight::{Norm, NormTensors, PreparedWeight, Weight, WeightCoding};

/// `activation(g (W x) + B (A x) + bias)`.
#[derive(Clone, Debug, ExtensionType)]
pub struct LinearArgs<B: Backend> {
    /// Input, `[T, in]`.
    pub x: FloatTensor<B>,
    /// Weight, `[out, in]`.
    #[extension_type]
    pub weight: PreparedWeight<B>,
    /// Bias, `[out]`; an adapter's own takes its place.
    #[extension_type]
    pub bias: OptionalTensor<B>,
    /// Activation after the bias.
    pub activation: Activation,
    /// The rows' adapters.
    #[extension_type]
    pub lora: LoraOperand<B>,
}

/// `residual + linear(x)`.
#[derive(Clone, Debug, ExtensionType)]
pub struct LinearAddArgs<B: Backend> {
    /// Added at the end, `[T, out]`.
    pub residual: FloatTensor<B>,
    /// The layer.
    #[extension_type]
    pub linear: LinearArgs<B>,
}

/// `norm(linear(x) + residual)`.
#[derive(Clone, Debug, ExtensionType)]
pub struct LinearAddNormArgs<B: Backend> {
    /// Added before the norm, `[T, out]`.
    pub residual: FloatTensor<B>,
    /// The layer.
    #[extension_type]
    pub linear: LinearArgs<B>,
    /// The norm.
    #[extension_type]
    pub norm: NormTensors<B>,
}

/// Linear layers. Accumulation is in f32 whatever the dtype.
#[backend_extension(Cube: cfg(feature = "cube"), Flex)]
pub trait LinearOps: Backend {
    /// Brings a weight `[out, in]` into the backend's own form. A backend without the coding keeps the values as they are.
    fn prepare_weight(weight: FloatTensor<Self>, coding: WeightCoding) -> PreparedWeight<Self> {
        let _ = coding;
        PreparedWeight::Plain(weight)
    }

    /// See [`LinearArgs`]; gives `[T, out]`.
    fn linear(#[extension_type] args: LinearArgs<Self>) -> FloatTensor<Self> {
        reference::linear::linear::<Self>(args)
    }

    /// See [`LinearAddArgs`]; gives `[T, out]` in the dtype of the residual.
    fn linear_add(#[extension_type] args: LinearAddArgs<Self>) -> FloatTensor<Self> {
        reference::linear::linear_add::<Self>(args)
    }

    /// See [`LinearAddNormArgs`]; gives `[T, out]`.
    fn linear_add_norm(#[extension_type] args: LinearAddNormArgs<Self>) -> FloatTensor<Self> {
        reference::linear::linear_add_norm::<Self>(args)
    }
}

/// A linear layer: its parameters and its sites.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Weight, `[out, in]`.
    pub weight: Weight,
    /// Bias, `[out]`.
    pub bias: Option<Tensor<1>>,
    /// Activation after the bias.
    pub activation: Activation,
    /// The sites that adapters may change here.
    pub sites: Arc<SiteGroup>,
}

impl Linear {
    fn args(&self, x: Tensor<2>, lora: &LoraBatch) -> LinearArgs<Dispatch> {
        LinearArgs {
            x: x.into_dispatch(),
            weight: self.weight.prepared.clone(),
            bias: self.bias.clone().into(),
            activation: self.activation,
            lora: lora.operand(&self.sites),
        }
    }
}

/// `[T, in] -> [T, out]`, each row through its adapter.
pub fn linear(x: Tensor<2>, layer: &Linear, lora: &LoraBatch) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as LinearOps>::linear(layer.args(x, lora)))
}

/// `residual + linear(x)`, `[T, in] -> [T, out]`; the sum is of f32, rounded once.
pub fn linear_add(x: Tensor<2>, layer: &Linear, residual: Tensor<2>, lora: &LoraBatch) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as LinearOps>::linear_add(LinearAddArgs {
        residual: residual.into_dispatch(),
        linear: layer.args(x, lora),
    }))
}

/// `norm(linear(x) + residual)`, `[T, in] -> [T, out]`.
pub fn linear_add_norm(
    x: Tensor<2>,
    layer: &Linear,
    residual: Tensor<2>,
    norm: &Norm,
    lora: &LoraBatch,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as LinearOps>::linear_add_norm(LinearAddNormArgs {
        residual: residual.into_dispatch(),
        linear: layer.args(x, lora),
        norm: norm.to_dispatch(),
    }))
}
