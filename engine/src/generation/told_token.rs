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
    let text_of = |id: u32| door.text_of(&[id], WITH_SPECIAL);
    let mut token = GeneratedToken {
        id,
        text: text_of(id),
        is_special: door.text_of(&[id], SpecialTokens::Skip).is_empty(),
        text_offset,
        ..GeneratedToken::default()
    };
    if let Some(TokenLogprobs { logprob, rank, top }) = logprobs {
        token.logprob = Some(logprob);
        token.rank = Some(rank);
        let top = top.into_iter().map(|(id, logprob)| TopToken { id, text: text_of(id), logprob });
        token.top = top.collect();
    }
    token
}
