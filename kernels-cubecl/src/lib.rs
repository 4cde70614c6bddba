//! The tensor operations of polylora: one door for every backend.
//!
//! Each family of ops is a trait with `#[backend_extension]` whose default body is the plain tensor version in
//! `reference`: the oracle of the tests, the fallback of every backend, and what autodiff runs through. The
//! implementation for Flex (Burn's CPU backend) hands slices to `polylora-kernels-cpu`; the one for CubeCL backends (CUDA,
//! wgpu) launches the kernels of `cube`.
//!
//! The crate knows tensors, segments and extents, never requests or adapters' names. It is the only one with `cfg` on a
//! backend feature.

#[cfg(feature = "cube")]
mod cube;
pub mod device;
pub mod device_memory;
pub mod extent;
mod flex;
pub mod host_memory;
pub mod kernel_cache;
mod kv_layer;
pub mod launches;
mod lora;
mod lora_index;
mod memory;
pub mod ops;
mod optional;
mod paged_index;
mod paged_rows;
mod query_tiles;
mod reference;
mod segments;
mod sequences;
mod site_group;
mod tiles;
mod weight;

#[cfg(feature = "cube")]
pub use cube::{KernelVariant, definition, variants};
pub use kv_layer::{KvLayer, KvMemoryError};
pub use lora::{LoraBatch, LoraOperand, LoraTable, PlacedAdapter};
pub use memory::{AdapterMemory, OutOfMemory, largest_buffer};
pub use ops::attention::{Attention, AttentionMask, attention_packed};
pub use ops::embedding::{Embedding, embed, embed_norm};
pub use ops::gated::gated;
pub use ops::linear::{Linear, linear, linear_add, linear_add_norm};
pub use ops::paged::{HeadNorms, PagedAttention, QkvForm, Rotary, attention_paged, copy_blocks, store_kv};
pub use ops::pooling::pool;
pub use ops::rms_norm::{RmsNorm, rms_norm};
pub use paged_rows::PagedRows;
pub use polylora_kernels_cpu::{Activation, HeadShape, KvHeads, KvShape, PagedSequence, Pooling, team};
pub use segments::{Segment, segments_of};
pub use sequences::Sequences;
pub use site_group::{SiteGroup, SiteSpan};
pub use tiles::{Tile, TilePlan, TileRows};
pub use weight::{Norm, Weight, WeightCoding};
