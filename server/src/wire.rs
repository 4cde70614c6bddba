//! The formats on the wire, converted to and from the engine's types here and nowhere else.

pub mod adapter_changes;
pub(crate) mod adapter_choice;
pub mod adapter_entry;
pub mod body;
pub mod error;
pub mod fields;
pub mod fleet_error;
pub mod input;
pub mod models;
pub mod openai;
pub mod status;
pub mod tei;
pub mod tei_error;
pub mod tei_info;
pub mod tei_timing;
pub mod tei_tokens;
