//! From the tokens of one sequence to its text and its end.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::detokenizer::Detokenizer;
use crate::finish_reason::{FinishReason, StopMatch};
use crate::sampling_params::SamplingParams;
use crate::stop_strings::StopStrings;
use crate::token_text::{SpecialTokens, TokenText};

/// What a token brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextEvent {
    /// Text that belongs to the output and was not given out before; often empty, as text waits for the rest of a character
    /// and while it may become a stop string. The deltas together are the output.
    pub text_delta: String,
    /// Where the token's own text begins: characters of decoded output before it, those included that wait. The
    /// completions API's `text_offset` counts the prompt too when it echoes it; add that.
    pub text_offset: usize,
    /// Why the sequence ends with this token, if it does. No token may follow.
    pub finish: Option<FinishReason>,
}

/// Turns the drawn tokens of one sequence into text, and knows when it ends.
///
/// A sequence ends by a token (end-of-sequence, `stop_token_ids`), by a stop string, or by its length; when several
/// happen at once, a stop string comes first and the length last. Before `min_tokens` are drawn only the length counts.
/// An end-of-sequence token that ends it has no text; a stop token and a stop string have theirs when
/// `include_stop_str_in_output` is set.
///
/// Clones share what the sequences of a request have in common.
#[derive(Clone, Debug)]
pub struct SequenceText {
    detokenizer: Detokenizer,
    stops: StopStrings,
    eos: Arc<BTreeSet<u32>>,
    stop_tokens: Arc<BTreeSet<u32>>,
    include_stop: bool,
    min_tokens: usize,
    max_tokens: usize,
    tokens: usize,
    /// Characters that the detokenizer gave.
    characters: usize,
    is_over: bool,
}

impl SequenceText {
    /// The text after `prompt`; `eos` are the model's end-of-sequence ids, `params` are checked.
    pub fn new(params: &SamplingParams, eos: &[u32], prompt: &[u32], door: &dyn TokenText) -> Self {
        let eos = if params.ignore_eos { &[] } else { eos };
        Self {
            detokenizer: Detokenizer::new(prompt, SpecialTokens::of(params), door),
            stops: StopStrings::new(&params.stop, params.include_stop_str_in_output),
            eos: Arc::new(eos.iter().copied().collect()),
            stop_tokens: Arc::new(params.stop_token_ids.iter().copied().collect()),
            include_stop: params.include_stop_str_in_output,
            min_tokens: params.min_tokens,
            max_tokens: params.max_tokens.unwrap_or(usize::MAX),
            tokens: 0,
            characters: 0,
            is_over: false,
        }
    }

    /// Tokens so far, that of the end included.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Takes the next drawn token. The sequence has not ended.
    pub fn push(&mut self, token: u32, door: &dyn TokenText) -> TextEvent {
        assert!(!self.is_over, "token {token} after the end of a sequence of {} tokens", self.tokens);
        self.tokens += 1;
        let text_offset = self.characters;
        let may_stop = self.tokens > self.min_tokens;
        let stop = may_stop.then(|| self.stop_by(token)).flatten();
        let has_text = match &stop {
            None => true,
            Some(StopMatch::EndOfSequence(_)) => false,
            Some(_) => self.include_stop,
        };
        let mut piece = if has_text { self.detokenizer.push(token, door) } else { String::new() };
        let end = match stop {
            Some(stop) => Some(FinishReason::Stop(stop)),
            None => (self.tokens >= self.max_tokens).then_some(FinishReason::Length),
        };
        if end.is_some() {
            piece += &self.detokenizer.finish(door);
        }
        self.characters += piece.chars().count();
        let scan = self.stops.push(&piece, may_stop);
        let mut text_delta = scan.text;
        let finish = match scan.found {
            Some(stop) => Some(FinishReason::Stop(StopMatch::Text(stop))),
            None => {
                if end.is_some() {
                    text_delta += &self.stops.release();
                }
                end
            }
        };
        self.is_over = finish.is_some();
        TextEvent { text_delta, text_offset, finish }
    }

    /// Ends a sequence that goes on no longer, for a reason that is not in its tokens, and gives the text that was waiting.
    /// Empty after an end.
    pub fn close(&mut self, door: &dyn TokenText) -> String {
        if self.is_over {
            return String::new();
        }
        self.is_over = true;
        let piece = self.detokenizer.finish(door);
        self.characters += piece.chars().count();
        let scan = self.stops.push(&piece, self.tokens > self.min_tokens);
        match scan.found {
            Some(_) => scan.text,
            None => scan.text + &self.stops.release(),
        }
    }

    fn stop_by(&self, token: u32) -> Option<StopMatch> {
        if self.eos.contains(&token) {
            return Some(StopMatch::EndOfSequence(token));
        }
        self.stop_tokens.contains(&token).then_some(StopMatch::Token(token))
    }
}
