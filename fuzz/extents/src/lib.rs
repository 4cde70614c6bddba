//! Where an adapter's values lie: this part of `kernels-cubecl` knows no tensor.

#[path = "../../../kernels-cubecl/src/extent.rs"]
pub mod extent;
