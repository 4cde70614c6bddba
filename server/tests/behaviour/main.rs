//! The laws of the HTTP surface and of the commands, against an engine without a model.

mod admin;
mod api_doc;
mod auth;
mod connections;
mod cors;
mod embed_command;
mod embeddings;
mod errors;
mod fake_engine;
mod fuzz;
mod instruction_set;
mod models;
mod operations;
mod overload;
mod page;
mod running;
mod spans;
mod stopping;
mod tei;
mod tei_errors;
mod tls;
