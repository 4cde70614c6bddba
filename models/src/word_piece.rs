//! A fast way through BERT's tokenizer (WordPiece, arXiv 1609.08144) for words of ASCII, with the ids that `tokenizers` gives.
//!
//! Between ASCII blanks a text falls into stretches that BERT's normaliser, pre-tokenizer and model treat each on its own. A
//! stretch of plain ASCII is cut here, without offsets and without strings for its pieces; any other (an accent, an emoji,
//! what may begin an added token) goes to the library, and with a tokenizer of any other make every text does.

use std::collections::BTreeMap;

use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{Model, Tokenizer};

use crate::piece_trie::PieceTrie;

/// BERT's tokenizer for stretches of ASCII.
#[derive(Clone)]
pub(crate) struct WordPiece {
    bytes: [Byte; 256],
    beginnings: PieceTrie,
    continuations: PieceTrie,
    unknown: u32,
    longest_word: usize,
    before: Vec<u32>,
    after: Vec<u32>,
}

/// What a byte does in a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Byte {
    /// Belongs to a word, as this byte.
    Letter(u8),
    /// Is a word of its own.
    Punctuation,
    /// Is as if it were not there.
    Removed,
    /// Is the library's.
    Foreign,
}

impl WordPiece {
    /// The fast way for `tokenizer`, when all of its parts are BERT's as this file knows them.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = tokenizer.get_normalizer() else {
            return None;
        };
        let Some(PreTokenizerWrapper::BertPreTokenizer(_)) = tokenizer.get_pre_tokenizer() else {
            return None;
        };
        let ModelWrapper::WordPiece(model) = tokenizer.get_model() else { return None };
        if !normalizer.clean_text {
            return None;
        }
        let vocabulary = model.get_vocab();
        let prefix = model.continuing_subword_prefix.as_str();
        let is_plain = |piece: &str| !piece.is_empty() && piece.is_ascii();
        let beginnings = vocabulary.iter().filter(|(piece, _)| is_plain(piece));
        let beginnings: BTreeMap<&[u8], u32> =
            beginnings.map(|(piece, id)| (piece.as_bytes(), *id)).collect();
        let continuations = vocabulary.iter().filter_map(|(piece, id)| {
            let rest = piece.strip_prefix(prefix).filter(|rest| is_plain(rest))?;
            Some((rest.as_bytes(), *id))
        });
        let (before, after) = specials(tokenizer, &beginnings)?;
        Some(Self {
            bytes: bytes(tokenizer, normalizer.lowercase)?,
            continuations: PieceTrie::new(&continuations.collect()),
            beginnings: PieceTrie::new(&beginnings),
            unknown: *vocabulary.get(&model.unk_token)?,
            longest_word: model.max_input_chars_per_word,
            before,
            after,
        })
    }

    /// Ids of `text` with special tokens; with `limit`, at most so many, all special tokens among them. `tokenizer` is the
    /// one that this way was made of; it must not cut or pad.
    ///
    /// # Errors
    /// The library's words.
    pub(crate) fn encode(
        &self,
        text: &str,
        limit: Option<usize>,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, String> {
        let specials = self.before.len() + self.after.len();
        let room = limit.map_or(usize::MAX, |limit| limit.saturating_sub(specials));
        let mut ids = Vec::with_capacity((text.len() / 3).min(room) + specials + 1);
        ids.extend_from_slice(&self.before);
        let end = self.before.len().saturating_add(room);
        let mut word = Vec::with_capacity(32);
        for stretch in text.split([' ', '\t', '\n', '\r']) {
            if ids.len() >= end {
                break;
            }
            if stretch.bytes().any(|byte| self.bytes[usize::from(byte)] == Byte::Foreign) {
                let encoded = tokenizer.encode_fast(stretch, false).map_err(|e| e.to_string())?;
                ids.extend_from_slice(encoded.get_ids());
            } else {
                self.stretch(stretch.as_bytes(), &mut word, &mut ids);
            }
        }
        ids.truncate(end);
        ids.extend_from_slice(&self.after);
        Ok(ids)
    }

    /// As [`encode`](Self::encode) with a limit, but of too many ids the last stay.
    ///
    /// # Errors
    /// The library's words.
    pub(crate) fn encode_tail(
        &self,
        text: &str,
        limit: usize,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, String> {
        let mut ids = self.encode(text, None, tokenizer)?;
        let surplus = ids.len().saturating_sub(limit);
        let first = self.before.len();
        let own = ids.len() - first - self.after.len();
        ids.drain(first..first + surplus.min(own));
        Ok(ids)
    }

    fn stretch(&self, stretch: &[u8], word: &mut Vec<u8>, ids: &mut Vec<u32>) {
        for byte in stretch {
            match self.bytes[usize::from(*byte)] {
                Byte::Letter(letter) => word.push(letter),
                Byte::Punctuation => {
                    self.word(word, ids);
                    word.clear();
                    self.word(&[*byte], ids);
                }
                Byte::Removed | Byte::Foreign => {}
            }
        }
        self.word(word, ids);
        word.clear();
    }

    /// The longest pieces from the left, or one unknown piece for the whole word.
    fn word(&self, word: &[u8], ids: &mut Vec<u32>) {
        if word.len() > self.longest_word {
            ids.push(self.unknown);
            return;
        }
        let (first, mut rest) = (ids.len(), word);
        while !rest.is_empty() {
            let pieces = if rest.len() == word.len() { &self.beginnings } else { &self.continuations };
            match pieces.longest(rest) {
                Some((bytes, id)) => {
                    ids.push(id);
                    rest = &rest[bytes..];
                }
                None => {
                    ids.truncate(first);
                    ids.push(self.unknown);
                    return;
                }
            }
        }
    }
}

/// What each byte does; `None` when added tokens may reach over blanks or come out of what is no ASCII.
fn bytes(tokenizer: &Tokenizer, lowercase: bool) -> Option<[Byte; 256]> {
    let mut bytes = [Byte::Foreign; 256];
    for byte in 0..128u8 {
        let letter = if lowercase { byte.to_ascii_lowercase() } else { byte };
        bytes[usize::from(byte)] = match byte {
            _ if byte.is_ascii_punctuation() => Byte::Punctuation,
            _ if byte.is_ascii_control() => Byte::Removed,
            _ => Byte::Letter(letter),
        };
    }
    for added in tokenizer.get_added_tokens_decoder().into_values() {
        let content = added.content.as_bytes();
        let first = *content.first()?;
        if content.iter().any(|byte| !byte.is_ascii_graphic()) {
            return None;
        }
        bytes[usize::from(first.to_ascii_lowercase())] = Byte::Foreign;
        bytes[usize::from(first.to_ascii_uppercase())] = Byte::Foreign;
    }
    Some(bytes)
}

/// The special tokens before and after a text, read off the library's own answers.
fn specials(tokenizer: &Tokenizer, pieces: &BTreeMap<&[u8], u32>) -> Option<(Vec<u32>, Vec<u32>)> {
    match tokenizer.get_post_processor() {
        None | Some(PostProcessorWrapper::Bert(_) | PostProcessorWrapper::Template(_)) => {}
        Some(_) => return None,
    }
    let ids = |text: &str, specials| Some(tokenizer.encode_fast(text, specials).ok()?.get_ids().to_vec());
    let around = ids("", true)?;
    let probe = pieces.keys().find_map(|piece| {
        let text = std::str::from_utf8(piece).ok()?;
        let is_word = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let alone = is_word.then(|| ids(text, false))??;
        let [id] = alone[..] else { return None };
        (!around.contains(&id)).then_some((text, id))
    });
    let (text, id) = probe?;
    let with = ids(text, true)?;
    let at = with.iter().position(|&found| found == id)?;
    let (before, after) = (with[..at].to_vec(), with[at + 1..].to_vec());
    ([&before[..], &after[..]].concat() == around).then_some((before, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tokenizers::{AddedToken, TruncationParams};

    use super::*;

    const WORDS: [&str; 22] = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "ab", "abc", "ca", "##a", "##b", "##bc",
        "##ca", "!", "##!", "-", "1", "##12", "é", "##é", "##",
    ];

    fn tokenizer(change: impl FnOnce(&mut Value)) -> Tokenizer {
        let vocabulary: BTreeMap<&str, usize> =
            WORDS.iter().enumerate().map(|(id, word)| (*word, id)).collect();
        let special = |id: usize| {
            json!({"id": id, "content": WORDS[id], "single_word": false, "lstrip": id == 4, "rstrip": false,
                   "normalized": false, "special": true})
        };
        let piece = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
        let mut json = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": (0..5).map(special).collect::<Vec<_>>(),
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                           "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "TemplateProcessing",
                "single": [piece("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, piece("[SEP]")],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {
                    "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                    "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
            "decoder": null,
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 6, "vocab": vocabulary},
        });
        change(&mut json);
        Tokenizer::from_bytes(json.to_string()).expect("a tokenizer")
    }

    /// BERT's with and without lower-casing and accents, without special tokens around, and with its older post-processor.
    fn kinds() -> Vec<Tokenizer> {
        vec![
            tokenizer(|_| {}),
            tokenizer(|json| json["normalizer"]["lowercase"] = json!(false)),
            tokenizer(|json| json["normalizer"]["strip_accents"] = json!(false)),
            tokenizer(|json| json["normalizer"]["handle_chinese_chars"] = json!(false)),
            tokenizer(|json| json["post_processor"] = Value::Null),
            tokenizer(|json| {
                json["post_processor"] =
                    json!({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]});
            }),
        ]
    }

    fn library(tokenizer: &Tokenizer, text: &str, limit: Option<usize>) -> Vec<u32> {
        let mut tokenizer = tokenizer.clone();
        let truncation =
            limit.map(|max_length| TruncationParams { max_length, ..TruncationParams::default() });
        tokenizer.with_truncation(truncation).expect("a limit");
        tokenizer.encode_fast(text, true).expect("ids").get_ids().to_vec()
    }

    fn library_tail(tokenizer: &Tokenizer, text: &str, max_length: usize) -> Vec<u32> {
        let mut tokenizer = tokenizer.clone();
        let direction = tokenizers::TruncationDirection::Left;
        let truncation = TruncationParams { max_length, direction, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).expect("a limit");
        tokenizer.encode_fast(text, true).expect("ids").get_ids().to_vec()
    }

    fn assert_same(tokenizer: &Tokenizer, text: &str, limit: Option<usize>) {
        let fast = WordPiece::of(tokenizer).expect("BERT's");
        let ids = fast.encode(text, limit, tokenizer).expect("ids");
        assert_eq!(ids, library(tokenizer, text, limit), "{text:?}, {limit:?}");
        if let Some(limit) = limit {
            let ids = fast.encode_tail(text, limit, tokenizer).expect("ids");
            assert_eq!(ids, library_tail(tokenizer, text, limit), "{text:?}, the last {limit}");
        }
    }

    #[test]
    fn every_pair_of_ascii_characters_between_letters_gives_the_librarys_ids() {
        for tokenizer in kinds() {
            let fast = WordPiece::of(&tokenizer).expect("BERT's");
            for (one, two) in (0..128u8).flat_map(|one| (0..128u8).map(move |two| (one, two))) {
                let text = format!("a{}b{}{}c", char::from(one), char::from(two), char::from(one));
                let ids = fast.encode(&text, None, &tokenizer).expect("ids");
                assert_eq!(
                    ids,
                    tokenizer.encode_fast(text.as_str(), true).expect("ids").get_ids(),
                    "{text:?}"
                );
            }
        }
    }

    #[test]
    fn every_character_of_unicode_gives_the_librarys_ids() {
        let tokenizer = tokenizer(|_| {});
        let fast = WordPiece::of(&tokenizer).expect("BERT's");
        let all: Vec<char> = ('\0'..=char::MAX).collect();
        for some in all.chunks(512) {
            for glue in ["", " ", "ab"] {
                let text = some.iter().map(char::to_string).collect::<Vec<_>>().join(glue);
                let ids = fast.encode(&text, None, &tokenizer).expect("ids");
                let expected = tokenizer.encode_fast(text.as_str(), true).expect("ids");
                assert_eq!(ids, expected.get_ids(), "from {:?}", some[0]);
            }
        }
    }

    #[test]
    fn added_tokens_are_found_within_words_and_beside_blanks() {
        for tokenizer in kinds() {
            for text in [
                "a[MASK]b",
                " [MASK] a",
                "a [CLS][SEP] b",
                "[mask]",
                "[MASK",
                "a [ b ] c",
                "[UNK]!",
                "ab[PAD",
            ] {
                for limit in [None, Some(3), Some(4), Some(9)] {
                    assert_same(&tokenizer, text, limit);
                }
            }
        }
    }

    #[test]
    fn a_word_of_one_letter_more_than_the_longest_is_unknown() {
        for text in ["ababab", "abababa", "ab\u{1}abab", "ababab!", "éééééé", "abx"] {
            kinds().iter().for_each(|tokenizer| assert_same(tokenizer, text, None));
        }
    }

    #[test]
    fn tokenizers_of_another_make_have_no_fast_way() {
        for change in [
            (|json: &mut Value| json["normalizer"] = json!({"type": "Lowercase"})) as fn(&mut Value),
            |json| json["normalizer"]["clean_text"] = json!(false),
            |json| json["pre_tokenizer"] = json!({"type": "Whitespace"}),
            |json| {
                json["post_processor"] = json!({"type": "ByteLevel", "add_prefix_space": true,
                                                   "trim_offsets": true, "use_regex": true})
            },
            |json| json["model"]["unk_token"] = json!("none"),
        ] {
            assert!(WordPiece::of(&tokenizer(change)).is_none());
        }
        for content in ["two words", "é", "ab\u{0}"] {
            let mut tokenizer = tokenizer(|_| {});
            tokenizer.add_tokens([AddedToken::from(content, false)]).expect("added");
            assert!(WordPiece::of(&tokenizer).is_none(), "{content:?}");
        }
    }

    #[test]
    fn an_added_token_of_letters_is_found_in_either_case() {
        let mut tokenizer = tokenizer(|_| {});
        tokenizer.add_tokens([AddedToken::from("cab", false).normalized(true)]).expect("added");
        for text in ["a cab b", "acabb", "CAB", "a CaB", "c\u{1}ab", "abab ca"] {
            assert_same(&tokenizer, text, None);
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_the_librarys_ids(text in "\\PC*|(?s).*|[abcABC1!\\- \t\r\n\u{0}\u{b}\u{c}é\u{301}\u{a0}\\[MASK\\]]{0,40}",
                                           limit in proptest::option::of(3usize..20), kind in 0usize..6) {
            assert_same(&kinds()[kind], &text, limit);
        }
    }
}
