//! The server's wire formats for requests of OpenAI's clients.
#![allow(dead_code, reason = "replies are written by the server only")]

#[path = "../../server/src/wire/adapter_choice.rs"]
pub(crate) mod adapter_choice;
#[path = "../../server/src/wire/body.rs"]
pub mod body;
#[path = "../../server/src/wire/error.rs"]
pub mod error;
#[path = "../../server/src/wire/fields.rs"]
pub mod fields;
#[path = "../../server/src/wire/input.rs"]
pub mod input;
#[path = "../../server/src/wire/openai.rs"]
pub mod openai;
