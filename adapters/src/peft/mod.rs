//! Adapters as Hugging Face PEFT saves them: `adapter_config.json` and `adapter_model.safetensors` in a folder
//! (<https://huggingface.co/docs/peft/developer_guides/checkpoint>).
//!
//! The files are somebody else's: nothing in them is believed before it is checked, nothing is skipped that might
//! have an effect, and pickles are never read.

mod chat_files;
mod config;
mod fields;
mod fit;
mod folder;
mod json;
mod known_fields;
mod manifest;
mod pattern_map;
mod patterns;
mod sites;
mod targets;
mod tensor_file;
mod tensor_header;
mod tensor_name;

pub use chat_files::{CHAT_TEMPLATE_FILE, ChatFiles, TOKENIZER_CONFIG_FILE};
pub use config::MAX_RANK;
pub use folder::{CONFIG_FILE, FileIdentity, FileTrust, WEIGHTS_FILE};
pub use manifest::{AdapterIdentity, AdapterManifest, MAX_CONFIG_BYTES};
pub use tensor_file::MAX_HEADER_BYTES;
