//! The pieces that the detokenizer gives, and the text that they are pieces of.

use polylora_generation::*;
use proptest::prelude::*;

use crate::doors::{ByteFallback, ByteLevel};

const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;
const SKIP: SpecialTokens = SpecialTokens::Skip;

/// The pieces of `output` after `prompt`; the last one is what waited to the end.
fn pieces(door: &dyn TokenText, prompt: &[u32], output: &[u32], special: SpecialTokens) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(prompt, special, door);
    let mut pieces: Vec<String> = output.iter().map(|&token| detokenizer.push(token, door)).collect();
    pieces.push(detokenizer.finish(door));
    pieces
}

/// What `output` adds to the text of `prompt`; half a character at the prompt's end counts to the output.
fn added(door: &dyn TokenText, prompt: &[u32], output: &[u32], special: SpecialTokens) -> String {
    let before = door.text_of(prompt, special);
    let settled = before.strip_suffix(REPLACEMENT).unwrap_or(&before).len();
    door.text_of(&[prompt, output].concat(), special)[settled..].to_owned()
}

/// Bytes that look like UTF-8 with faults: whole characters, halves, stray bytes.
fn faulty_bytes() -> impl Strategy<Value = Vec<u8>> {
    let shard = prop_oneof![
        3 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
        2 => prop::sample::select(vec!["é", "€", "😀", "a", " "]).prop_map(|c| c.as_bytes().to_vec()),
        2 => prop::sample::select(vec![&b"\xE2"[..], b"\xE2\x82", b"\xF0\x9F\x98", b"\x80", b"\xFF", b"\xC0\x80", b"\xED\xA0"])
            .prop_map(<[u8]>::to_vec),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    prop::collection::vec(shard, 0..60).prop_map(|shards| shards.concat())
}

/// `bytes` cut into pieces of 1 to 4 bytes, with some special tokens (ids beyond the pieces) in between.
fn cut(bytes: &[u8], cuts: &[u8]) -> (ByteLevel, Vec<u32>) {
    let (mut pieces, mut tokens, mut rest) = (Vec::new(), Vec::new(), bytes);
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, tail) = rest.split_at(rest.len().min(*cut as usize % 4 + 1));
        tokens.push(pieces.len() as u32);
        pieces.push(piece.to_vec());
        rest = tail;
        if *cut > 230 {
            tokens.push(1_000_000);
        }
    }
    (ByteLevel::new(pieces), tokens)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_pieces_together_are_the_whole_text_broken_utf8_or_not(
        bytes in faulty_bytes(),
        cuts in prop::collection::vec(any::<u8>(), 1..50),
        border in any::<prop::sample::Index>(),
        keeps_special in any::<bool>(),
    ) {
        let special = if keeps_special { SpecialTokens::Keep { spaces_between: true } } else { SKIP };
        let (door, tokens) = cut(&bytes, &cuts);
        let (prompt, output) = tokens.split_at(border.index(tokens.len() + 1));
        let expected = added(&door, prompt, output, special);
        prop_assert_eq!(pieces(&door, prompt, output, special).concat(), expected);
    }

    #[test]
    fn half_a_character_is_never_given_out(
        text in "\\PC{0,60}".prop_map(|text| text.replace(REPLACEMENT, "x")),
        cuts in prop::collection::vec(any::<u8>(), 1..50),
    ) {
        let (door, tokens) = cut(text.as_bytes(), &cuts);
        let pieces = pieces(&door, &[], &tokens, SKIP);
        prop_assert!(pieces.iter().all(|piece| !piece.contains(REPLACEMENT)));
        prop_assert_eq!(&pieces[tokens.len()], "", "whole text does not wait for an end");
        prop_assert_eq!(pieces.concat(), text);
    }

    #[test]
    fn a_token_costs_a_bounded_number_of_decoded_tokens(
        kind in prop::sample::select(vec![b"\xFF".to_vec(), b"\x80".to_vec(), b"\xE2\x82".to_vec(), b"".to_vec(), b"a".to_vec()]),
        other in prop::sample::select(vec![b"\xF0".to_vec(), b"".to_vec(), "é".as_bytes().to_vec()]),
        others in prop::collection::vec(any::<bool>(), 3000),
        is_mixed in any::<bool>(),
    ) {
        let output: Vec<u32> = others.iter().map(|&other| u32::from(is_mixed && other)).collect();
        let door = ByteLevel::new(vec![kind, other]);
        pieces(&door, &[], &output, SKIP);
        prop_assert!(door.decoded.get() <= 100 * output.len(), "{} tokens decoded", door.decoded.get());
    }

    #[test]
    fn sentence_pieces_and_byte_tokens_become_the_whole_text(
        words in prop::collection::vec(prop_oneof!["▁?[a-z]{1,4}", "▁{1,3}", "[é€😀]{1,3}"], 1..30),
        border in any::<prop::sample::Index>(),
    ) {
        // Words with characters that the vocabulary has not come as bytes.
        let mut door = ByteFallback { pieces: Vec::new() };
        let mut tokens = Vec::new();
        let border = border.index(words.len());
        let mut prompt_len = 0;
        for (index, word) in words.into_iter().enumerate() {
            if index == border {
                prompt_len = tokens.len();
            }
            if word.is_ascii() || word.contains('▁') {
                tokens.push(256 + door.pieces.len() as u32);
                door.pieces.push(word);
            } else {
                tokens.extend(word.bytes().map(u32::from));
            }
        }
        let (prompt, output) = tokens.split_at(prompt_len);
        let pieces = pieces(&door, prompt, output, SKIP);
        prop_assert!(pieces.iter().all(|piece| !piece.contains(REPLACEMENT)));
        prop_assert_eq!(pieces.concat(), added(&door, prompt, output, SKIP));
    }
}

#[test]
fn a_character_comes_with_the_token_that_completes_it_and_what_is_before_it_at_once() {
    let door = ByteLevel::new(vec![b"ab\xE2".to_vec(), b"\x82".to_vec(), b"\xACc".to_vec()]);
    assert_eq!(pieces(&door, &[], &[0, 1, 2], SKIP), ["ab", "", "€c", ""]);
}

#[test]
fn half_a_character_at_the_end_is_replaced_once() {
    let door = ByteLevel::new(vec![b"a\xF0\x9F".to_vec(), b"\x98".to_vec()]);
    assert_eq!(pieces(&door, &[], &[0, 1], SKIP), ["a", "", "\u{FFFD}"]);
}

#[test]
fn a_character_that_the_prompt_began_belongs_to_the_output() {
    let door = ByteLevel::new(vec![b"x\xE2\x82".to_vec(), b"\xAC".to_vec()]);
    assert_eq!(pieces(&door, &[0], &[1], SKIP), ["€", ""]);
}

#[test]
fn the_first_word_keeps_the_space_that_sets_it_apart_from_the_prompt() {
    let door = ByteFallback { pieces: vec!["▁Hello".into(), "▁world".into()] };
    assert_eq!(pieces(&door, &[256], &[257, 256], SKIP), [" world", " Hello", ""]);
    assert_eq!(pieces(&door, &[], &[257], SKIP), ["world", ""]);
}

#[test]
fn special_tokens_have_a_text_only_where_they_are_kept() {
    let door = ByteLevel::of_texts(&["a"]);
    assert_eq!(pieces(&door, &[], &[0, 7, 0], SKIP), ["a", "", "a", ""]);
    let keep = SpecialTokens::Keep { spaces_between: false };
    assert_eq!(pieces(&door, &[], &[0, 7, 0], keep), ["a", "<7>", "a", ""]);
}

#[test]
fn bytes_that_never_become_a_character_are_given_out_before_the_end() {
    let door = ByteLevel::new(vec![b"\xFF".to_vec()]);
    let pieces = pieces(&door, &[], &[0; 100], SKIP);
    assert!(pieces[..30].concat().chars().count() >= 10, "{pieces:?}");
    assert_eq!(pieces.concat(), "\u{FFFD}".repeat(100));
}

#[test]
fn a_token_that_only_lengthens_half_a_character_is_not_lost_among_strays() {
    let door = ByteLevel::new([&b"\xFF"[..], b"\xF0\x9F", b"\x98", b"\x80", b""].map(<[u8]>::to_vec).into());
    for strays in 0..40 {
        let output = [vec![0; strays], vec![4, 1, 2, 3]].concat();
        assert_eq!(pieces(&door, &[], &output, SKIP).concat(), "\u{FFFD}".repeat(strays) + "\u{1F600}");
    }
}
