//! Any text through the models' own WordPiece and through `tokenizers`: the same ids. One byte says where to cut.

use std::sync::LazyLock;

use tokenizers::{Tokenizer, TruncationDirection, TruncationParams};

use crate::word_piece_source::WordPiece;

const TOKENIZER: &[u8] = include_bytes!("../../tests/fixtures/encoders/bert/model/tokenizer.json");

static WHOLE: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_bytes(TOKENIZER).expect("a tokenizer"));
static FAST: LazyLock<WordPiece> = LazyLock::new(|| WordPiece::of(&WHOLE).expect("BERT's"));

/// Checks that both give the same ids, cut at either end.
pub fn check(bytes: &[u8]) {
    let Some((&limit, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    // Two are the special tokens' own.
    let limit = (limit > 2).then_some(usize::from(limit));
    let ids = FAST.encode(text, limit, &WHOLE).expect("ids");
    assert_eq!(ids, library(text, limit, TruncationDirection::Right), "{text:?}, at most {limit:?}");
    if let Some(limit) = limit {
        let tail = FAST.encode_tail(text, limit, &WHOLE).expect("ids");
        assert_eq!(tail, library(text, Some(limit), TruncationDirection::Left), "{text:?}, the last {limit}");
    }
}

fn library(text: &str, limit: Option<usize>, direction: TruncationDirection) -> Vec<u32> {
    let mut library = WHOLE.clone();
    let cut =
        limit.map(|max_length| TruncationParams { max_length, direction, ..TruncationParams::default() });
    library.with_truncation(cut).expect("a limit");
    library.encode_fast(text, true).expect("ids").get_ids().to_vec()
}
