//! Model families of polylora: from a model directory to a forward pass over packed rows.
//!
//! A family is one file (`bert.rs`) over shared layers, which are the ops of `polylora-kernels`; LoRA is part of a linear
//! layer, so no family has a second form with adapters. The crate never sees HTTP, time or queues.

mod bert;
mod bert_config;
mod checkpoint;
mod dora;
mod embedding_model;
mod encoder;
mod encoder_size;
mod error;
mod json_file;
mod packed_batch;
mod piece_trie;
mod row_output;
mod sentence_transformers;
mod text_shares;
mod tokenizer;
mod word_piece;

pub use bert_config::BertConfig;
pub use checkpoint::Checkpoint;
pub use embedding_model::EmbeddingModel;
pub use encoder::Encoder;
pub use encoder_size::EncoderSize;
pub use error::ModelError;
pub use packed_batch::{BatchError, PackedBatch};
pub use row_output::RowOutput;
pub use sentence_transformers::SentenceTransformersConfig;
pub use tokenizer::{TextToken, TextTokenizer};
