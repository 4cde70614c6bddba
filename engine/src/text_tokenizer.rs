//! A model's tokenizer, as the engine asks for it.

use polylora_models::TextTokenizer;

use crate::Tokenize;

impl Tokenize for TextTokenizer {
    /// The engine's only limit is the model's, which is the tokenizer's own.
    fn encode(&self, text: &str, limit: Option<usize>) -> Result<Vec<u32>, String> {
        debug_assert!(limit.is_none_or(|limit| limit == self.max_tokens()));
        TextTokenizer::encode(self, text, limit.is_some())
    }

    fn vocab_size(&self) -> usize {
        TextTokenizer::vocab_size(self)
    }
}
