//! Tokens as text, and back: what a person asks a tokenizer, beside what a model does.

use tokenizers::TruncationDirection;

use super::{TextTokenizer, Way};

/// A token of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextToken {
    /// Its id.
    pub id: u32,
    /// The part of the text that it stands for; a special token's own name.
    pub text: String,
    /// Where that part lies in the text, in bytes; `None` for a token that the tokenizer added.
    pub span: Option<(usize, usize)>,
}

impl TextToken {
    /// Whether it is not of the text but was added to it.
    pub fn is_special(&self) -> bool {
        self.span.is_none()
    }
}

impl TextTokenizer {
    /// As [`encode`](Self::encode) with `truncate`, but the beginning of the text is cut off instead of its end.
    ///
    /// # Errors
    /// The tokenizer's words.
    pub fn encode_tail(&self, text: &str) -> Result<Vec<u32>, String> {
        let lowered = self.lowercase.then(|| text.to_lowercase());
        let text = lowered.as_deref().unwrap_or(text);
        if let Way::WordPiece(fast) = &self.way {
            return fast.encode_tail(text, self.max_tokens, &self.whole);
        }
        let told = |error: tokenizers::Error| error.to_string();
        let mut encoding = self.whole.encode_fast(text, false).map_err(told)?;
        let specials = self.whole.get_post_processor().map_or(0, |p| {
            use tokenizers::PostProcessor;
            p.added_tokens(false)
        });
        // `max_tokens` is above the number of special tokens: `read` has seen to that.
        encoding.truncate(self.max_tokens - specials, 0, TruncationDirection::Left);
        let encoding = self.whole.post_process(encoding, None, true).map_err(told)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens of a text of any length, with the special ones where asked for. Where the model wants texts in lower
    /// case, spans are those of the lower-cased text.
    ///
    /// # Errors
    /// The tokenizer's words.
    pub fn tokens(&self, text: &str, special_tokens: bool) -> Result<Vec<TextToken>, String> {
        let lowered = self.lowercase.then(|| text.to_lowercase());
        let text = lowered.as_deref().unwrap_or(text);
        let encoding = self.whole.encode(text, special_tokens).map_err(|error| error.to_string())?;
        let token = |(index, &id): (usize, &u32)| {
            if encoding.get_special_tokens_mask()[index] == 1 {
                return TextToken { id, text: encoding.get_tokens()[index].clone(), span: None };
            }
            let (start, end) = encoding.get_offsets()[index];
            // A token of bytes may begin or end within a character.
            let part = text.as_bytes().get(start..end).unwrap_or_default();
            TextToken { id, text: String::from_utf8_lossy(part).into_owned(), span: Some((start, end)) }
        };
        Ok(encoding.get_ids().iter().enumerate().map(token).collect())
    }

    /// The text of token ids, without special tokens where they are to be skipped.
    ///
    /// # Errors
    /// The tokenizer's words.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        self.whole.decode(ids, skip_special_tokens).map_err(|error| error.to_string())
    }
}
