//! Names in the lines that enter a base model's digest. They are fixed: another name would make every adapter's cache stale.

use polylora_kernels::Activation;

/// The name of an activation.
pub(crate) fn activation(activation: Activation) -> &'static str {
    match activation {
        Activation::Identity => "identity",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_tanh",
        Activation::Relu => "relu",
        Activation::Silu => "silu",
    }
}
