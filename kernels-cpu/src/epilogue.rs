//! What follows a matrix product while its rows are still in the cache.

use crate::isa::Target;
use crate::lanes::fma;
use crate::math::{erf, tanh};

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
}

/// Applies `activation` in place.
#[inline(always)]
pub(crate) fn activate<I: Target>(activation: Activation, row: &mut [f32]) {
    match activation {
        Activation::Identity => {}
        Activation::Gelu => {
            for v in row {
                *v = 0.5 * *v * (1.0 + erf::<I>(*v * std::f32::consts::FRAC_1_SQRT_2));
            }
        }
        Activation::GeluTanh => {
            for v in row {
                let inner = 0.797_884_6 * fma::<I>(0.044_715 * *v * *v, *v, *v);
                *v = 0.5 * *v * (1.0 + tanh::<I>(inner));
            }
        }
        Activation::Relu => {
            for v in row {
                // Not `max`, which would turn NaN into 0.
                *v = if *v < 0.0 { 0.0 } else { *v };
            }
        }
    }
}

/// `row += values`.
#[inline(always)]
pub(crate) fn add(row: &mut [f32], values: &[f32]) {
    for (v, b) in row.iter_mut().zip(values) {
        *v += b;
    }
}

/// `row *= values`.
#[inline(always)]
pub(crate) fn scale(row: &mut [f32], values: &[f32]) {
    for (v, g) in row.iter_mut().zip(values) {
        *v *= g;
    }
}
