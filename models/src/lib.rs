//! Model families of polylora: from a model directory to a forward pass over packed rows.
//!
//! An encoder family is one file (`bert.rs`) over the ops of `polylora-kernels`; LoRA is part of a linear layer, so no family
//! has a second form with adapters. The decoder families (`llama.rs`, `mistral.rs`, `qwen2.rs`, `qwen3.rs`) differ in facts
//! only and share one decoder. The crate never sees HTTP, clocks or queues.

mod bert;
mod bert_config;
mod canonical;
mod causal_lm;
mod chat_template;
mod checkpoint;
mod config_fields;
mod decoder_config;
mod decoder_encoder;
mod decoder_family;
mod decoder_layer;
mod decoder_sites;
mod decoder_size;
mod dora;
mod embedding_model;
mod encoder;
mod encoder_config;
mod encoder_size;
mod error;
mod generation_config;
mod json_file;
mod kv_cache;
mod language_model;
mod llama;
mod load_progress;
mod mistral;
mod packed_batch;
mod paged_batch;
mod piece_trie;
mod qwen2;
mod qwen3;
mod random_weights;
mod rope;
mod rope_parameters;
mod row_output;
mod sentence_transformers;
mod special_tokens;
mod stored_values;
mod text_shares;
mod tokenizer;
mod weight_loader;
mod weight_source;
mod word_piece;

pub use bert_config::BertConfig;
pub use causal_lm::CausalLm;
pub use chat_template::{ChatEnding, ChatError, ChatInput, ChatTemplates, TemplateValue};
pub use checkpoint::Checkpoint;
pub use decoder_config::{Biases, DecoderConfig};
pub use decoder_family::DecoderFamily;
pub use decoder_size::DecoderSize;
pub use embedding_model::EmbeddingModel;
pub use encoder::Encoder;
pub use encoder_size::EncoderSize;
pub use error::ModelError;
pub use generation_config::GenerationConfig;
pub use kv_cache::KvCache;
pub use language_model::LanguageModel;
pub use packed_batch::{BatchError, PackedBatch};
pub use paged_batch::{PagedBatch, PagedLimits, PagedRow, WantedLogits};
pub use rope_parameters::{RopeParameters, RopeScaling};
pub use row_output::RowOutput;
pub use sentence_transformers::SentenceTransformersConfig;
pub use tokenizer::{TextToken, TextTokenizer, numbered_tokenizer};
