//! Benchmarks of polylora on the CPU: the pieces that the bench programs share.
//!
//! - `cargo bench -p polylora-benches --bench forward`: the encoder by batch and length, beside its floor.
//! - `cargo bench -p polylora-benches --bench lora_overhead`: what adapters cost, by rank and by how many are in a batch.
//! - `benches/peers.sh DIR`: the `lockstep` program in turn with sentence-transformers, PyTorch, ONNX Runtime and PEFT.
//!
//! Each times passes itself and reports their median, fastest and slowest; none passes or fails by a time. Figures with
//! their machine are in `RESULTS.md`.

mod error;
mod flops;
mod neighbours;
mod options;
mod peak;
mod random;
mod random_adapters;
mod report;
mod rows;
mod subject;
mod timing;
mod word_pool;

pub use error::BenchError;
pub use flops::{EncoderSize, Targets};
pub use neighbours::undisturbed;
pub use options::{RunOptions, StartError};
pub use peak::GemmPeak;
pub use random::Random;
pub use random_adapters::random_adapters;
pub use report::{Report, Row};
pub use rows::{RowLength, Rows};
pub use subject::{Subject, load_adapter};
pub use timing::{Passes, in_turn, passes};
pub use word_pool::WordPool;
