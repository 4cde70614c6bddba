//! CubeCL backends: CUDA and wgpu from one source. Every op takes its default body.

use burn_cubecl::CubeBackend;

use crate::ops::attention::AttentionOps;
use crate::ops::embedding::EmbeddingOps;
use crate::ops::linear::LinearOps;
use crate::ops::pooling::PoolingOps;

impl LinearOps for CubeBackend {}
impl AttentionOps for CubeBackend {}
impl EmbeddingOps for CubeBackend {}
impl PoolingOps for CubeBackend {}
