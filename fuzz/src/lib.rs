//! What the fuzz targets check, one module for each: `check` panics when a law does not hold.
//!
//! Sources of the crates that would bring the tensor library are compiled here once more, without it.

mod api_doc;
pub mod attention;
pub mod linear;
pub mod openai_body;
pub mod peft_folder;
mod scratch_folder;
pub mod tensor_header;
mod tiny_base;
mod values;

#[allow(dead_code, reason = "the server uses all of it")]
#[path = "../../server/src/model_names.rs"]
mod model_names;
#[path = "../../models/src/piece_trie.rs"]
mod piece_trie;
mod state;
mod wire;
pub mod word_piece;
#[path = "../../models/src/word_piece.rs"]
mod word_piece_source;
