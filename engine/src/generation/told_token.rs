//! A token as clients are told of it.

use polylora_generation::{SpecialTokens, TokenLogprobs, TokenText};

use crate::{GeneratedToken, TopToken};

/// Special tokens are written out.
pub(super) const WITH_SPECIAL: SpecialTokens = SpecialTokens::Keep { spaces_between: true };

/// Token `id` with `text_offset` characters before it, and its place in the model's distribution where that is told.
pub(super) fn told_token(
    door: &dyn TokenText,
    id: u32,
    text_offset: usize,
    logprobs: Option<TokenLogprobs>,
) -> GeneratedToken {
    let (text, is_special) = (text_of(door, id), is_special(door, id));
    let mut token = GeneratedToken { id, text, is_special, text_offset, ..GeneratedToken::default() };
    if let Some(TokenLogprobs { logprob, rank, top }) = logprobs {
        token.logprob = Some(logprob);
        token.rank = Some(rank);
        let top = top.into_iter().map(|(id, logprob)| TopToken { id, text: text_of(door, id), logprob });
        token.top = top.collect();
    }
    token
}

/// The text that a token adds to others. Tokenizers of SentencePiece's kind drop the blank that a text begins with, so it is
/// also read after itself.
fn text_of(door: &dyn TokenText, id: u32) -> String {
    let alone = door.text_of(&[id], WITH_SPECIAL);
    let twice = door.text_of(&[id, id], WITH_SPECIAL);
    match twice.strip_prefix(&alone).filter(|second| second.ends_with(&alone)) {
        Some(second) if second.len() > alone.len() && !is_special(door, id) => second.to_owned(),
        _ => alone,
    }
}

/// Whether a token has a text only where special ones are written out.
fn is_special(door: &dyn TokenText, id: u32) -> bool {
    door.text_of(&[id], SpecialTokens::Skip).is_empty() && !door.text_of(&[id], WITH_SPECIAL).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens 0.. are these pieces, where `▁` is a blank and the first of a text is dropped; further ones are special.
    struct SentencePieces(&'static [&'static str]);

    impl TokenText for SentencePieces {
        fn text_of(&self, tokens: &[u32], special: SpecialTokens) -> String {
            let piece = |id: &u32| match self.0.get(*id as usize) {
                Some(piece) => piece.replace('▁', " "),
                None if special == SpecialTokens::Skip => String::new(),
                None => format!("<{id}>"),
            };
            let text: String = tokens.iter().map(piece).collect();
            text.strip_prefix(' ').map(str::to_owned).unwrap_or(text)
        }
    }

    #[test]
    fn a_token_keeps_the_blank_that_it_adds_and_a_blank_is_not_special() {
        let door = SentencePieces(&["▁world", "s", "▁", "▁▁", "\u{FFFD}", ""]);
        let told = |id: u32| {
            let token = told_token(&door, id, 0, None);
            (token.text, token.is_special)
        };
        let texts = [" world", "s", " ", "  ", "\u{FFFD}", ""];
        for (id, text) in texts.iter().enumerate() {
            assert_eq!(told(id as u32), ((*text).to_owned(), false));
        }
        assert_eq!(told(9), ("<9>".to_owned(), true));
    }
}
