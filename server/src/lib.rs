//! The polylora server: command line, configuration and HTTP in front of an embedding engine, a generation engine, or both.
//!
//! This crate alone knows JSON and status codes. Everything behind the routes goes through
//! [`polylora_engine::EmbeddingService`] and [`polylora_engine::GenerationService`], so that the whole HTTP surface runs without a model in tests.

pub mod adapters_command;
pub mod admin;
pub(crate) mod api_doc;
pub mod api_keys;
pub mod assemble;
mod assemble_embedding;
mod assemble_llm;
pub mod auth;
pub mod bench_command;
pub mod cli;
pub mod connections;
pub mod cors;
pub mod dispatch;
pub mod embed_command;
pub mod embedder;
pub(crate) mod event_stream;
pub mod fleet_duty;
pub mod fleet_metrics;
pub mod generation_replies;
pub mod held_body;
pub mod http_metrics;
pub mod intake;
mod kv_budget;
pub mod llm;
mod metric_families;
pub mod model_names;
pub(crate) mod open_fleet;
pub mod otlp;
pub(crate) mod page;
pub mod pull_command;
pub mod request_log;
pub mod request_trace;
pub mod routes;
pub mod serve;
pub mod settings;
pub mod shutdown;
pub mod startup;
pub mod state;
pub mod telemetry;
pub mod wire;
