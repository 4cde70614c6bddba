//! The formats on the wire, converted to and from the engine's types here and nowhere else.

pub(crate) mod adapter_choice;
pub mod body;
pub mod error;
pub mod fields;
pub mod input;
pub mod models;
pub mod openai;
pub mod tei;
pub mod tei_error;
pub mod tei_info;
pub mod tei_timing;
pub mod tei_tokens;
