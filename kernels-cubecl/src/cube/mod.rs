//! CubeCL backends: CUDA and wgpu from one source. Products are Burn's matmul; everything around them is ours.
//!
//! What the kernels do not serve (dtypes without a variant, rows too wide for a workgroup's registers) takes the plain
//! reference, the default body of each op.

mod attention;
mod definitions;
mod embedding;
#[cfg(test)]
mod every_variant;
mod gated;
mod grid;
mod kernels;
mod layer_end;
mod linear;
mod lora;
mod paged;
mod paged_forms;
#[cfg(test)]
mod poisoned_caches;
#[cfg(test)]
mod poisoned_outputs;
mod pooling;
mod rms_norm;
mod row_shape;
mod tensors;
mod variant;

pub use variant::{KernelVariant, definition, variants};
