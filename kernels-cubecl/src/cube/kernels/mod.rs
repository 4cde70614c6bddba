//! The kernels, in CubeCL: one source for CUDA and wgpu.
//!
//! Limits that they keep on every backend: 16 KiB of shared memory, 256 units, 65,535 workgroups a dimension. Inputs and
//! outputs are f32, f16 or bf16; everything is summed in f32.

mod activation;
pub(crate) mod attention;
mod attention_tile;
pub(crate) mod column;
pub(crate) mod embed;
pub(crate) mod gated;
pub(crate) mod linear_end;
pub(crate) mod lookup;
pub(crate) mod paged_decode;
pub(crate) mod paged_lookup;
pub(crate) mod paged_prompt;
pub(crate) mod paged_store;
pub(crate) mod pool;
pub(crate) mod rms_norm;
pub(crate) mod row_norm;
mod row_sum;
pub(crate) mod shrink;
mod vectors;
