//! The doors: one trait per family of ops, and the functions on tensors that go through it.

pub mod attention;
pub mod embedding;
pub mod gated;
pub mod linear;
pub mod paged;
pub mod pooling;
pub mod rms_norm;
