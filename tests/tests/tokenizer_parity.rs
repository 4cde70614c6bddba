//! Our tokenizer's ids beside those of Hugging Face's `tokenizers`, with the real vocabulary of all-MiniLM-L6-v2.

use std::fs;
use std::path::Path;

use polylora_models::TextTokenizer;
use polylora_tests::{minilm_dir, repository};
use proptest::prelude::*;
use tokenizers::{Tokenizer, TruncationParams};

const MOST_TOKENS: usize = 256;

/// Ours, and the library's as sentence-transformers uses it: whole, and cut at the model's limit.
struct Pair {
    ours: TextTokenizer,
    whole: Tokenizer,
    cut: Tokenizer,
}

impl Pair {
    fn read(dir: &Path) -> Self {
        let ours = TextTokenizer::read(dir, Some(MOST_TOKENS), 512, false).expect("ours");
        let mut whole = Tokenizer::from_file(dir.join("tokenizer.json")).expect("the library's");
        whole.with_padding(None);
        whole.with_truncation(None).expect("no limit");
        let mut cut = whole.clone();
        let limit = TruncationParams { max_length: MOST_TOKENS, ..TruncationParams::default() };
        cut.with_truncation(Some(limit)).expect("a limit");
        Self { ours, whole, cut }
    }

    fn assert_same(&self, text: &str) {
        for (truncate, library) in [(false, &self.whole), (true, &self.cut)] {
            let expected = library.encode_fast(text, true).expect("ids");
            assert_eq!(self.ours.encode(text, truncate).expect("ids"), expected.get_ids(), "{text:?}");
        }
    }
}

#[test]
fn every_character_of_unicode_and_every_pair_of_ascii_has_the_librarys_ids() {
    let pair = Pair::read(&minilm_dir());
    let all: Vec<char> = ('\0'..=char::MAX).collect();
    for some in all.chunks(400) {
        for glue in ["", " ", "ing"] {
            pair.assert_same(&some.iter().map(char::to_string).collect::<Vec<_>>().join(glue));
        }
    }
    for one in '\0'..='\x7f' {
        let text: String = ('\0'..='\x7f').map(|two| format!("un{one}believ{two}able{one}{two} ")).collect();
        text.split_inclusive(' ').for_each(|word| pair.assert_same(word));
        pair.assert_same(&text);
    }
}

#[test]
fn every_piece_of_the_vocabulary_has_the_librarys_ids_as_a_text_and_within_one() {
    let pair = Pair::read(&minilm_dir());
    for piece in pair.whole.get_vocab(true).keys() {
        pair.assert_same(piece);
        pair.assert_same(&format!("Un{piece}ly {}", piece.trim_start_matches('#').to_uppercase()));
    }
}

#[test]
fn the_projects_own_pages_and_sources_have_the_librarys_ids() {
    let pair = Pair::read(&minilm_dir());
    let mut lines = 0;
    for folder in ["", "docs", "docs/adr", "models/src", "tests/tests"] {
        for entry in fs::read_dir(repository().join(folder)).expect("a folder").flatten() {
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
            text.lines().for_each(|line| pair.assert_same(line));
            pair.assert_same(&text[..text.floor_char_boundary(20_000)]);
            lines += text.lines().count();
        }
    }
    assert!(lines > 1000, "{lines} lines are no text to speak of");
}

#[test]
fn any_text_has_the_librarys_ids() {
    let pair = Pair::read(&minilm_dir());
    let words = "(?s)([a-zA-Z]{1,12}|[0-9]{1,6}|\\PC{1,4}|[\\x00-\\x7f]{1,6}|[’“”–…éüßИя中]{1,3}|\\[(CLS|MASK|mask)\\]|[ \t\n.,!?'-]){0,60}";
    proptest!(ProptestConfig::with_cases(4000), |(text in words)| pair.assert_same(&text));
}
