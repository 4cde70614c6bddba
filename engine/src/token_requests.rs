//! What is asked of the tokenizer alone: the tokens of texts, and the texts of tokens. No device takes part, but permits
//! bound this work as they bound every other.

use crate::embedding_path::EmbeddingPath;
use crate::{EmbedError, TextToken};

/// Tokens that a reply with a vector for each of them may have: 8192 vectors of 384 values are 12 MB, and ten times that
/// in JSON.
pub(crate) const MOST_TOKEN_VECTORS: usize = 8192;

/// Tokens that a reply may tell of.
const MOST_TOKENS_TOLD: usize = 65_536;

/// A request for the tokens of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizeRequest {
    /// The texts, in the order of the reply.
    pub texts: Vec<String>,
    /// Name of a prompt of the model that goes in front of each text.
    pub prompt_name: Option<String>,
    /// Whether the model's special tokens are among them.
    pub special_tokens: bool,
}

/// A request for the texts of token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeRequest {
    /// Lists of ids, in the order of the reply.
    pub ids: Vec<Vec<u32>>,
    /// Whether special tokens are left out of the texts.
    pub skip_special_tokens: bool,
}

impl EmbeddingPath {
    /// Checks a request, lets it in and answers it.
    pub(crate) async fn tokens_of(
        &self,
        request: TokenizeRequest,
    ) -> Result<Vec<Vec<TextToken>>, EmbedError> {
        let TokenizeRequest { texts, prompt_name, special_tokens } = request;
        self.check_count(texts.len())?;
        let prompt = self.check.prompt_for(prompt_name.as_deref())?;
        if let Some(index) = texts.iter().position(String::is_empty) {
            return Err(EmbedError::EmptyInput { index });
        }
        for (index, text) in texts.iter().enumerate() {
            self.check.check_length(index, text)?;
        }
        let _permits = self.admission.admit(texts.len())?;
        self.tokenizer
            .run(move |tokenizer| {
                let (mut lists, mut told) = (Vec::with_capacity(texts.len()), 0);
                for (index, text) in texts.into_iter().enumerate() {
                    let text = match &prompt {
                        Some(prompt) => format!("{prompt}{text}"),
                        None => text,
                    };
                    let tokens = tokenizer.tokens(&text, special_tokens);
                    let tokens = tokens.map_err(|reason| EmbedError::Tokenize { index, reason })?;
                    told += tokens.len();
                    if told > MOST_TOKENS_TOLD {
                        return Err(EmbedError::TooManyTokens { found: told, max: MOST_TOKENS_TOLD });
                    }
                    lists.push(tokens);
                }
                Ok(lists)
            })
            .await
    }

    /// Checks a request, lets it in and answers it.
    pub(crate) async fn texts_of(&self, request: DecodeRequest) -> Result<Vec<String>, EmbedError> {
        let DecodeRequest { ids, skip_special_tokens } = request;
        self.check_count(ids.len())?;
        let vocab_size = self.tokenizer.bounds().vocab_size;
        for (index, ids) in ids.iter().enumerate() {
            if ids.is_empty() {
                return Err(EmbedError::EmptyInput { index });
            }
            if let Some(&token) = ids.iter().find(|&&id| id as usize >= vocab_size) {
                return Err(EmbedError::TokenOutOfVocabulary { index, token, vocab_size });
            }
        }
        let _permits = self.admission.admit(ids.len())?;
        let decode = move |tokenizer: &dyn crate::Tokenize| {
            let text = |(index, ids): (usize, &Vec<u32>)| {
                let text = tokenizer.decode(ids, skip_special_tokens);
                text.map_err(|reason| EmbedError::Tokenize { index, reason })
            };
            ids.iter().enumerate().map(text).collect()
        };
        self.tokenizer.run(decode).await
    }

    fn check_count(&self, found: usize) -> Result<(), EmbedError> {
        if self.status.is_stopping() {
            return Err(EmbedError::ShuttingDown);
        }
        match found {
            0 => Err(EmbedError::NoInputs),
            _ if found > self.check.max_inputs => {
                Err(EmbedError::TooManyInputs { found, max: self.check.max_inputs })
            }
            _ => Ok(()),
        }
    }
}
