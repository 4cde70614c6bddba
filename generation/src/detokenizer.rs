//! Text from tokens, piece by piece.

use crate::token_text::{SpecialTokens, TokenText};

/// Gives the text that each new token adds.
///
/// A token's text depends on its neighbours (a leading space, a character whose bytes are several tokens), so a window of
/// tokens is decoded: the last ones whose text is out, and those since. Text is given out once it cannot change: what ends
/// in U+FFFD, which may be half a character, waits for the next token.
///
/// Laws, for a door that decodes the bytes of all tokens together: the pieces together are the text of all tokens, as long
/// as no character has a dozen tokens without text within it; and a token costs a bounded number of decoded tokens,
/// whatever the model writes.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    special: SpecialTokens,
    window: Vec<u32>,
    /// Tokens at the window's start whose text is out.
    context: usize,
    /// Bytes of the window's text that are out.
    told: usize,
}

/// Tokens of the prompt that the first window starts with.
const PROMPT_CONTEXT: usize = 6;
/// Further tokens of the prompt, where the window would start within a character.
const CHARACTER_TOKENS: usize = 4;
/// Tokens that may wait for a character to be whole.
const MOST_PENDING: usize = 16;
/// Half a character, or bytes that are none.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

impl Detokenizer {
    /// Goes on after `prompt`, whose text is not given out, but for half a character at its end.
    pub fn new(prompt: &[u32], special: SpecialTokens, door: &dyn TokenText) -> Self {
        let mut start = prompt.len().saturating_sub(PROMPT_CONTEXT);
        let mut text = door.text_of(&prompt[start..], special);
        let earliest = start.saturating_sub(CHARACTER_TOKENS);
        while start > earliest && text.starts_with(REPLACEMENT) {
            start -= 1;
            text = door.text_of(&prompt[start..], special);
        }
        let window = prompt[start..].to_vec();
        Self { special, context: window.len(), told: settled_len(&text), window }
    }

    /// Takes the next token and gives the text that is certain now; often empty.
    pub fn push(&mut self, token: u32, door: &dyn TokenText) -> String {
        self.window.push(token);
        let text = door.text_of(&self.window, self.special);
        let whole = whole_len(&text);
        let piece = self.tell(&text[..whole]);
        if whole == text.len() && !piece.is_empty() {
            self.forget_context(door);
        } else if self.window.len() - self.context > MOST_PENDING {
            return piece + &self.shorten(&text, door);
        }
        piece
    }

    /// Gives the text that was waiting, half a character as U+FFFD. What comes after stands alone.
    pub fn finish(&mut self, door: &dyn TokenText) -> String {
        let text = door.text_of(&self.window, self.special);
        let piece = self.tell(&text);
        self.window.clear();
        self.context = 0;
        self.told = 0;
        piece
    }

    /// What of `text`, the window's so far as it is certain, is not out yet.
    fn tell(&mut self, text: &str) -> String {
        let piece = text.get(self.told..).unwrap_or_default().to_owned();
        self.told = self.told.max(text.len());
        piece
    }

    /// The tokens since the context are the context now.
    fn forget_context(&mut self, door: &dyn TokenText) {
        self.window.drain(..self.context);
        self.context = self.window.len();
        self.told = door.text_of(&self.window, self.special).len();
    }

    /// Makes a window that has grown too long short again and gives the text that this decides.
    fn shorten(&mut self, text: &str, door: &dyn TokenText) -> String {
        if self.drop_silent_tokens(text, door) {
            return String::new();
        }
        let (out, waiting) = text.split_at_checked(self.told).unwrap_or((text, ""));
        let last_out = out.chars().next_back().filter(|&character| character != REPLACEMENT);
        for kept in CHARACTER_TOKENS..=MOST_PENDING - CHARACTER_TOKENS {
            let border = self.window.len() - kept;
            let [head, tail] = [&self.window[..border], &self.window[border..]]
                .map(|tokens| door.text_of(tokens, self.special));
            // Where the tail ends in the last character that is out and the waiting text, the garbage that the cut may have
            // made lies before them.
            let known = tail.strip_suffix(waiting).filter(|_| last_out.is_some());
            if let Some(known) = known.filter(|known| known.chars().next_back() == last_out) {
                self.start_at(border, known.len());
                return String::new();
            }
            // Where both sides have the text that they have together, the border is not within a character.
            if !tail.is_empty() && head.len() >= self.told && text.strip_prefix(&head) == Some(&tail) {
                let piece = self.tell(&head);
                self.start_at(border, 0);
                return piece;
            }
        }
        let piece = self.tell(text);
        self.forget_context(door);
        piece
    }

    /// Drops the last tokens as far as they have no text, neither alone nor here; says whether there were any.
    fn drop_silent_tokens(&mut self, text: &str, door: &dyn TokenText) -> bool {
        let mut end = self.window.len();
        while end > self.context
            && door.text_of(&self.window[end - 1..end], self.special).is_empty()
            && door.text_of(&self.window[..end - 1], self.special) == text
        {
            end -= 1;
        }
        let found = end < self.window.len();
        self.window.truncate(end);
        found
    }

    /// Moves the window's start to `border`; `told` bytes of the text from there are out.
    fn start_at(&mut self, border: usize, told: usize) {
        self.window.drain(..border);
        self.context = 0;
        self.told = told;
    }
}

/// Bytes of the text before further tokens, without half a character at its end.
fn settled_len(text: &str) -> usize {
    text.strip_suffix(REPLACEMENT).unwrap_or(text).len()
}

/// Bytes of `text` without anything at its end that may be half a character.
fn whole_len(text: &str) -> usize {
    text.trim_end_matches(REPLACEMENT).len()
}
