//! CPU kernels of polylora on plain slices of `f32` or `bf16`. This crate knows no tensor library.
//!
//! Every kernel is written once over sixteen lanes (`target`) and compiled for each instruction set of [`isa`]; the
//! products in the middle of them exist once for each instruction set and weight format (`tile`). The scalar compilation
//! is the twin that the others are tested against. A row of a result is computed in an order that depends on nothing but
//! the row's own width and values, so its bits are the same whatever other rows lie in the batch.
#![allow(unsafe_code)] // The one crate that may: instructions chosen at run time, and memory shared by disjoint parts.
#![allow(clippy::missing_safety_doc, reason = "private functions state it where they are defined")]

mod aligned;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod amx_laws;
mod attention;
mod element;
mod embedding;
mod epilogue;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod fenced_memory;
mod gated;
mod int8_row;
pub mod isa;
mod linear;
mod lora;
mod math;
mod norm;
mod packed_lora;
mod packed_matrix;
mod paged;
mod pooling;
mod rms_norm;
mod shared_out;
mod target;
pub mod team;
mod tile;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tile_emulator;
mod weight_memory;
mod weight_slab;

pub use attention::{AttentionCall, HeadShape, attention_packed};
pub use element::Element;
pub use embedding::{EmbeddingCall, embed, embed_norm};
pub use epilogue::Activation;
pub use gated::{GatedCall, gated};
pub use linear::{LinearCall, linear};
pub use lora::{LoraSegment, LoraSpan};
pub use norm::NormParams;
pub use packed_lora::PackedLora;
pub use packed_matrix::{INT8_MOST_INPUTS, PackedMatrix, WeightFormat};
pub use paged::{
    HeadNorm, KvHeads, KvPanels, KvShape, NoMemory, PagedAttentionCall, PagedBatch, PagedSequence,
    RotaryTable, StoreCall, attention_paged, store_kv,
};
pub use pooling::{Pooling, pool};
pub use rms_norm::{RmsNormCall, rms_norm};
