//! A model's tokenizer, as the engine asks for it.

use polylora_models::{TextToken, TextTokenizer};

use crate::Tokenize;

impl Tokenize for TextTokenizer {
    /// The engine's only limit is the model's, which is the tokenizer's own.
    fn encode(&self, text: &str, limit: Option<usize>) -> Result<Vec<u32>, String> {
        debug_assert!(limit.is_none_or(|limit| limit == self.max_tokens()));
        TextTokenizer::encode(self, text, limit.is_some())
    }

    fn encode_tail(&self, text: &str, limit: usize) -> Result<Vec<u32>, String> {
        debug_assert_eq!(limit, self.max_tokens());
        TextTokenizer::encode_tail(self, text)
    }

    fn tokens(&self, text: &str, special_tokens: bool) -> Result<Vec<TextToken>, String> {
        TextTokenizer::tokens(self, text, special_tokens)
    }

    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        TextTokenizer::decode(self, ids, skip_special_tokens)
    }

    fn vocab_size(&self) -> usize {
        TextTokenizer::vocab_size(self)
    }
}
