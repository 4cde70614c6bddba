//! Vocabularies that decode as the usual kinds of tokenizers do.

use std::cell::Cell;

use polylora_generation::{SpecialTokens, TokenText};

/// Byte-level BPE: the bytes of all tokens together, what is no UTF-8 replaced. Ids beyond the pieces are special tokens
/// `<id>`.
#[derive(Debug)]
pub struct ByteLevel {
    pub pieces: Vec<Vec<u8>>,
    /// Tokens decoded so far.
    pub decoded: Cell<usize>,
}

impl ByteLevel {
    pub fn new(pieces: Vec<Vec<u8>>) -> Self {
        Self { pieces, decoded: Cell::new(0) }
    }

    /// Tokens 0, 1, 2.. with these texts.
    pub fn of_texts(texts: &[&str]) -> Self {
        Self::new(texts.iter().map(|text| text.as_bytes().to_vec()).collect())
    }

    /// The ids of all pieces, one after another.
    pub fn tokens(&self) -> Vec<u32> {
        (0..self.pieces.len() as u32).collect()
    }
}

impl TokenText for ByteLevel {
    fn text_of(&self, tokens: &[u32], special: SpecialTokens) -> String {
        self.decoded.set(self.decoded.get() + tokens.len());
        let mut bytes = Vec::new();
        for token in tokens {
            match self.pieces.get(*token as usize) {
                Some(piece) => bytes.extend_from_slice(piece),
                None if special == SpecialTokens::Skip => {}
                None => bytes.extend_from_slice(format!("<{token}>").as_bytes()),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// SentencePiece with byte fallback (Llama 2, Mistral): `▁` is a space, the first of the text is dropped; a run of byte
/// tokens is a text when all of it is UTF-8, else each byte is replaced. Ids below 256 are bytes, others the pieces.
pub struct ByteFallback {
    pub pieces: Vec<String>,
}

impl TokenText for ByteFallback {
    fn text_of(&self, tokens: &[u32], _: SpecialTokens) -> String {
        let (mut text, mut run) = (String::new(), Vec::new());
        for token in tokens {
            match u8::try_from(*token) {
                Ok(byte) => run.push(byte),
                Err(_) => {
                    text += &run_text(&mut run);
                    text += &self.pieces[*token as usize - 256].replace('▁', " ");
                }
            }
        }
        text += &run_text(&mut run);
        text.strip_prefix(' ').map(str::to_owned).unwrap_or(text)
    }
}

fn run_text(run: &mut Vec<u8>) -> String {
    String::from_utf8(std::mem::take(run))
        .unwrap_or_else(|broken| "\u{FFFD}".repeat(broken.into_bytes().len()))
}
