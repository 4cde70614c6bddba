//! What the whole-system tests share: the repository's files, golden embeddings, the real model, and the real binary
//! running as a server.

mod golden;
mod minilm;
mod repository;
mod server;

pub use golden::{Golden, largest_difference};
pub use minilm::{Bench, minilm_dir};
pub use repository::{fixtures, repository};
pub use server::{Reply, Server, binary};
