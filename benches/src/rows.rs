//! Texts of a batch and their ids.

use std::fmt;

use polylora_models::TextTokenizer;
use rayon::prelude::*;

use crate::{BenchError, WordPool};

/// How long the texts of a batch are, special tokens included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowLength {
    /// All of so many tokens.
    Each(usize),
    /// From 6 to 122 tokens, every length as likely as another.
    Mixed,
}

/// A batch of texts, no two alike.
#[derive(Debug)]
pub struct Rows {
    /// The texts.
    pub texts: Vec<String>,
    /// Their ids.
    pub ids: Vec<Vec<u32>>,
}

impl fmt::Display for RowLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowLength::Each(tokens) => write!(f, "{tokens}"),
            RowLength::Mixed => f.write_str("6..122"),
        }
    }
}

impl Rows {
    /// `batch` new texts.
    ///
    /// # Errors
    /// When the tokenizer refuses one.
    pub fn new(
        pool: &mut WordPool,
        tokenizer: &TextTokenizer,
        batch: usize,
        length: RowLength,
    ) -> Result<Self, BenchError> {
        let length_of = |pool: &mut WordPool| match length {
            RowLength::Each(tokens) => tokens,
            RowLength::Mixed => 6 + pool.below(117),
        };
        let lengths: Vec<usize> = (0..batch).map(|_| length_of(pool)).collect();
        let texts: Vec<String> = lengths.iter().map(|tokens| pool.text(*tokens)).collect();
        let ids = encode(tokenizer, &texts)?;
        assert!(ids.iter().map(Vec::len).eq(lengths), "a word of the pool is not one token");
        Ok(Self { texts, ids })
    }

    /// Tokens of each text.
    pub fn lengths(&self) -> Vec<usize> {
        self.ids.iter().map(Vec::len).collect()
    }
}

/// Tokenises texts side by side.
pub(crate) fn encode(tokenizer: &TextTokenizer, texts: &[String]) -> Result<Vec<Vec<u32>>, BenchError> {
    let encode = |text: &String| tokenizer.encode(text, true);
    texts.par_iter().map(encode).collect::<Result<_, _>>().map_err(|reason| BenchError::Tokenize { reason })
}
