//! Where an adapter's values lie: this part of `kernels-cubecl` knows no tensor.

#[allow(dead_code, reason = "the CPU kernels' form of an adapter is made elsewhere")]
#[path = "../../../kernels-cubecl/src/extent.rs"]
pub mod extent;
