//! What the whole-system tests share: the repository's files, golden embeddings, the real model, and the real binary
//! running as a server.

mod adapter_folders;
mod client_python;
mod clients;
mod golden;
mod gpu;
mod minilm;
mod program;
mod raw_client;
mod repository;
mod script_law;
mod server;
mod shared;
mod small_server;

pub use adapter_folders::{BertSize, RandomAdapter, copy_folder};
pub use client_python::client_python;
pub use clients::at_once;
pub use golden::{Golden, golden_rows, largest_difference};
pub use gpu::wgpu_or_not_run;
pub use minilm::{Bench, minilm_dir};
pub use program::{Ended, polylora, run, run_needed};
pub use raw_client::{RawClient, RawReply};
pub use repository::{fixtures, repository};
pub use script_law::{assert_held, script_law};
pub use server::{Reply, Server, binary};
pub use shared::Shared;
pub use small_server::{SMALL_BASE, SmallServer};
