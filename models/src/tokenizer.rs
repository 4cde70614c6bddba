//! Text to token ids with the model's own `tokenizer.json`.

mod numbered;
mod token_text;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokenizers::{Tokenizer, TruncationParams};

use crate::word_piece::WordPiece;
use crate::{ModelError, json_file};

pub use numbered::numbered_tokenizer;
pub use token_text::TextToken;

/// A tokenizer. Truncation and padding that `tokenizer.json` asks for are off: the limit is the model's, and packed rows
/// are not padded.
#[derive(Clone)]
pub struct TextTokenizer {
    whole: Tokenizer,
    way: Way,
    max_tokens: usize,
    lowercase: bool,
    path: PathBuf,
}

/// How texts are tokenised.
#[derive(Clone)]
enum Way {
    /// BERT's: by our own cut of ASCII words, the same ids as the library's.
    WordPiece(Box<WordPiece>),
    /// By the library; this copy cuts at the limit.
    Library(Box<Tokenizer>),
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    /// Some files write 1e30 for "no limit".
    model_max_length: Option<f64>,
}

impl TextTokenizer {
    /// Reads `dir/tokenizer.json`; `limits` are the model's: the limit that its files state, and that of its position
    /// table. Without the former, `model_max_length` of tokenizer_config.json counts.
    ///
    /// # Errors
    /// When the file is missing or not a tokenizer.
    pub fn read(
        dir: &Path,
        stated: Option<usize>,
        positions: usize,
        lowercase: bool,
    ) -> Result<Self, ModelError> {
        let path = dir.join("tokenizer.json");
        if !path.is_file() {
            let hint = "a fast tokenizer is needed: save it with `AutoTokenizer.from_pretrained(..).save_pretrained(..)`";
            return Err(ModelError::Missing { path, hint });
        }
        let config = json_file::read::<TokenizerConfig>(dir, "tokenizer_config.json")?.unwrap_or_default();
        let stated = stated.or_else(|| {
            let length = config.model_max_length.filter(|l| *l >= 1.0 && *l < 1e9)?;
            Some(length as usize)
        });
        let max_tokens = stated.unwrap_or(positions).min(positions);
        let whole = Tokenizer::from_file(&path)
            .map_err(|e| ModelError::Tokenizer { path: path.clone(), reason: e.to_string() })?;
        Self::of(whole, max_tokens, lowercase, path)
    }

    /// One whose words are the numbers of the ids below `vocab_size`, for a model that has no files.
    pub(crate) fn numbered(vocab_size: usize, max_tokens: usize) -> Result<Self, ModelError> {
        let path = PathBuf::from("tokenizer.json");
        let whole = numbered_tokenizer(vocab_size).parse::<Tokenizer>();
        let whole = whole.map_err(|e| ModelError::Tokenizer { path: path.clone(), reason: e.to_string() })?;
        Self::of(whole, max_tokens, false, path)
    }

    fn of(
        mut whole: Tokenizer,
        max_tokens: usize,
        lowercase: bool,
        path: PathBuf,
    ) -> Result<Self, ModelError> {
        let refuse = |reason: String| ModelError::Tokenizer { path: path.clone(), reason };
        whole.with_padding(None);
        whole.with_truncation(None).map_err(|e| refuse(e.to_string()))?;
        let specials = whole.encode_fast("", true).map_err(|e| refuse(e.to_string()))?.get_ids().len();
        if max_tokens <= specials {
            let field = "max_seq_length (or model_max_length, max_position_embeddings)";
            return Err(ModelError::Unsupported {
                path: path.clone(),
                field: field.to_owned(),
                found: max_tokens.to_string(),
                expected: format!("more than the {specials} special tokens of a text"),
            });
        }
        let way = match WordPiece::of(&whole) {
            Some(fast) => Way::WordPiece(Box::new(fast)),
            None => Way::Library(Box::new(truncating(&whole, max_tokens).map_err(refuse)?)),
        };
        Ok(Self { whole, way, max_tokens, lowercase, path })
    }

    /// Token ids with special tokens. With `truncate`, at most [`max_tokens`](Self::max_tokens): the text is cut, the
    /// special tokens stay.
    ///
    /// # Errors
    /// The tokenizer's words.
    pub fn encode(&self, text: &str, truncate: bool) -> Result<Vec<u32>, String> {
        let lowered = self.lowercase.then(|| text.to_lowercase());
        let text = lowered.as_deref().unwrap_or(text);
        let tokenizer = match &self.way {
            Way::WordPiece(fast) => {
                return fast.encode(text, truncate.then_some(self.max_tokens), &self.whole);
            }
            Way::Library(cut) if truncate => cut,
            Way::Library(_) => &self.whole,
        };
        Ok(tokenizer.encode_fast(text, true).map_err(|e| e.to_string())?.get_ids().to_vec())
    }

    /// Token ids of `text` as it is: special tokens that it spells are found, none are added. For a rendered chat.
    ///
    /// # Errors
    /// The tokenizer's words.
    pub fn encode_as_is(&self, text: &str) -> Result<Vec<u32>, String> {
        let lowered = self.lowercase.then(|| text.to_lowercase());
        let text = lowered.as_deref().unwrap_or(text);
        Ok(self.whole.encode_fast(text, false).map_err(|e| e.to_string())?.get_ids().to_vec())
    }

    /// The id of a token by its own name, such as `<|im_end|>`.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.whole.token_to_id(token)
    }

    /// The own name of a token; `None` for ids that a padded vocabulary has beyond the tokenizer's.
    pub fn name_of(&self, id: u32) -> Option<String> {
        self.whole.id_to_token(id)
    }

    /// Tokens one text may have, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Number of token ids, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.whole.get_vocab_size(true)
    }

    /// Checks that every id it can give is in a table of `vocab_size` rows.
    pub(crate) fn check_vocabulary(&self, vocab_size: usize) -> Result<(), ModelError> {
        let highest = self.whole.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if highest < vocab_size {
            return Ok(());
        }
        let reason = format!("gives ids up to {highest}, config.json's vocab_size is {vocab_size}");
        Err(ModelError::Tokenizer { path: self.path.clone(), reason })
    }
}

fn truncating(whole: &Tokenizer, limit: usize) -> Result<Tokenizer, String> {
    let mut cut = whole.clone();
    let params = TruncationParams { max_length: limit, ..TruncationParams::default() };
    cut.with_truncation(Some(params)).map_err(|e| e.to_string())?;
    Ok(cut)
}
