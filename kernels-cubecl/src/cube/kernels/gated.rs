//! Gated linear units, a unit a vector.

use cubecl::prelude::*;

use super::activation::activated;
use super::lookup::group_number;
use crate::Activation;

/// `activation(gate) * up`; `gate_up` is `[T, 2 * width]` with rows `stride` values apart, `out` `[T, width]`. Grid: x (and z)
/// rows, y blocks of columns.
#[cube(launch)]
pub(crate) fn gated<F: Float, N: Size>(
    gate_up: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    rows: u32,
    width: u32,
    stride: u32,
    #[comptime] activation: Activation,
    #[define(F)] _dtype: ElemType,
    #[define(N)] _lanes: usize,
) {
    let vectors = width as usize / N::value();
    let row = group_number();
    let vector = CUBE_POS_Y as usize * CUBE_DIM as usize + UNIT_POS as usize;
    if row < rows as usize && vector < vectors {
        let at = row * (stride as usize / N::value()) + vector;
        let gate = activated::<N>(Vector::<f32, N>::cast_from(gate_up[at]), activation);
        let up = Vector::<f32, N>::cast_from(gate_up[at + vectors]);
        out[row * vectors + vector] = Vector::<F, N>::cast_from(gate * up);
    }
}
