//! The formats on the wire, converted to and from the engine's types here and nowhere else.

pub mod body;
pub mod error;
pub mod fields;
pub mod input;
pub mod models;
pub mod openai;
