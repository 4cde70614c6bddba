//! Activations of vectors in registers.

use cubecl::prelude::*;

use crate::Activation;

/// `activation(value)`.
#[cube]
pub(crate) fn activated<N: Size>(
    value: Vector<f32, N>,
    #[comptime] activation: Activation,
) -> Vector<f32, N> {
    match comptime!(activation) {
        Activation::Identity => value,
        Activation::Relu => max(value, Vector::<f32, N>::new(0.0f32)),
        Activation::Silu => {
            let zero = Vector::<f32, N>::new(0.0f32);
            let one = Vector::<f32, N>::new(1.0f32);
            // Of the magnitude, at most 80: there the exponential is still a number that every device holds.
            let size = min(max(value, zero - value), Vector::<f32, N>::new(80.0f32));
            let decay = (zero - size).exp();
            max(value, zero) - size * decay / (one + decay)
        }
        Activation::Gelu => {
            let half = Vector::<f32, N>::new(0.5f32);
            let inner = value * Vector::<f32, N>::new(std::f32::consts::FRAC_1_SQRT_2);
            half * value * (Vector::<f32, N>::new(1.0f32) + inner.erf())
        }
        Activation::GeluTanh => {
            let cube = value * value * value;
            let inner = value + cube * Vector::<f32, N>::new(0.044_715f32);
            // tanh saturates; beyond 10 some backends' exp would overflow.
            let bounded = clamp(
                inner * Vector::<f32, N>::new(0.797_884_6f32),
                Vector::<f32, N>::new(-10.0f32),
                Vector::<f32, N>::new(10.0f32),
            );
            value * Vector::<f32, N>::new(0.5f32) * (Vector::<f32, N>::new(1.0f32) + bounded.tanh())
        }
    }
}
