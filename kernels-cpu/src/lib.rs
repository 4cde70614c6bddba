//! CPU kernels of polylora on plain `f32` slices. This crate knows no tensor library.
//!
//! Every kernel is written once, as scalar Rust over fixed-width lanes, and compiled for each instruction set in
//! [`isa`]; the scalar compilation is the twin that the others are tested against. A row of a result is computed in
//! an order that depends on nothing but the row's own width and values, so its bits are the same whatever other rows
//! lie in the batch.
#![allow(unsafe_code)] // The one crate that may: calls into code compiled for detected instruction sets.

mod attention;
mod embedding;
mod epilogue;
mod gemm;
pub mod isa;
mod lanes;
mod linear;
mod lora;
mod math;
mod norm;
mod packed_matrix;
mod pooling;

pub use attention::{AttentionCall, HeadShape, attention_packed};
pub use embedding::{EmbeddingCall, embed_norm};
pub use epilogue::Activation;
pub use linear::{LinearCall, linear};
pub use lora::{LoraSegment, LoraSpan};
pub use norm::NormParams;
pub use packed_matrix::PackedMatrix;
pub use pooling::{Pooling, pool};
