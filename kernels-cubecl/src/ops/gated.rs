//! Gated linear units: what stands between the projections of a decoder's feed-forward layer.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension};
use burn::tensor::Tensor;

use crate::Activation;
use crate::reference;

/// `activation(gate) * up` as the ops see it.
#[derive(Clone, Debug, ExtensionType)]
pub struct GatedArgs<B: Backend> {
    /// Gate and up side by side, as a fused projection leaves them, `[T, 2 * width]`.
    pub gate_up: FloatTensor<B>,
    /// Activation of the gate.
    pub activation: Activation,
}

/// Gated linear units.
#[backend_extension(Cube: cfg(feature = "cube"), Flex)]
pub trait GatedOps: Backend {
    /// See [`GatedArgs`]; gives `[T, width]` in the dtype of the input, computed in f32.
    fn gated(#[extension_type] args: GatedArgs<Self>) -> FloatTensor<Self> {
        reference::gated::gated::<Self>(args)
    }
}

/// `activation(gate_up[:, ..width]) * gate_up[:, width..]`, `[T, 2 * width] -> [T, width]`; with SiLU it is SwiGLU (arXiv
/// 2002.05202). In f32, rounded once at the end.
///
/// # Panics
/// When the number of columns is odd.
pub fn gated(gate_up: Tensor<2>, activation: Activation) -> Tensor<2> {
    assert!(gate_up.dims()[1].is_multiple_of(2), "gate and up are not of one width");
    let args = GatedArgs { gate_up: gate_up.into_dispatch(), activation };
    Tensor::from_dispatch(<Dispatch as GatedOps>::gated(args))
}
