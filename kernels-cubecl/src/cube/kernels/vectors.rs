//! Vectors of a few lanes: what a unit reads and writes at once.

use cubecl::prelude::*;

/// The sum of all lanes.
#[cube]
pub(crate) fn lane_sum<N: Size>(value: Vector<f32, N>) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for lane in 0..N::value() {
        sum += value.extract(lane);
    }
    sum
}

/// The dot product of two vectors.
#[cube]
pub(crate) fn lane_dot<N: Size>(left: Vector<f32, N>, right: Vector<f32, N>) -> f32 {
    lane_sum::<N>(left * right)
}
