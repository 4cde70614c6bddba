//! Tiny random decoders of every family against what transformers and PEFT computed, and the laws of a step.

mod chat;
mod fixture;
mod head_adapters;
mod laws;
mod parity;
mod qwen3_embedding;
mod refusals;
mod speaker;
