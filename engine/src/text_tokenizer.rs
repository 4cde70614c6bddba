//! A model's tokenizer, as the engine asks for it.

use polylora_models::TextTokenizer;

use crate::Tokenize;

impl Tokenize for TextTokenizer {
    fn encode(&self, text: &str, limit: Option<usize>) -> Result<Vec<u32>, String> {
        TextTokenizer::encode(self, text, limit)
    }

    fn vocab_size(&self) -> usize {
        TextTokenizer::vocab_size(self)
    }
}
