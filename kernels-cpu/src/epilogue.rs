//! Activations, as they follow a matrix product while its rows are still in the cache.

use crate::math::{gelu, gelu_coarse, silu, tanh};
use crate::target::Target;

/// An element-wise activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// None.
    Identity,
    /// `x/2 (1 + erf(x / sqrt 2))`, Hugging Face's `gelu`.
    Gelu,
    /// The tanh form, Hugging Face's `gelu_new` and `gelu_pytorch_tanh`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + e^-x)`, Hugging Face's `silu` and `swish`.
    Silu,
}

impl Activation {
    /// All there are.
    pub const ALL: [Activation; 5] =
        [Activation::Identity, Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu];
}

/// `activation(v)`; `coarse` where an error of 5e-5 does not matter.
#[inline(always)]
pub(crate) fn activate<I: Target>(activation: Activation, coarse: bool, v: I::Lanes) -> I::Lanes {
    match activation {
        Activation::Identity => v,
        Activation::Gelu if coarse => gelu_coarse::<I>(v),
        Activation::Gelu => gelu::<I>(v),
        Activation::GeluTanh => {
            let cube = I::mul(I::mul(I::splat(0.044_715), I::mul(v, v)), v);
            let inner = I::mul(I::splat(0.797_884_6), I::add(v, cube));
            let half = I::mul(I::splat(0.5), v);
            I::fma(half, tanh::<I>(inner), half)
        }
        // In this order of arguments NaN passes.
        Activation::Relu => I::max(I::splat(0.0), v),
        Activation::Silu => silu::<I>(v),
    }
}
