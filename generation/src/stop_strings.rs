//! Stop strings, found across the borders of tokens.

use std::sync::Arc;

/// Looks for stop strings in a text that comes in pieces, and holds back what may become one.
///
/// The match that ends first counts; of those that end together, the longest. So what is found does not depend on how the
/// text is cut into pieces. Each byte is looked at once for each string (Knuth, Morris, Pratt, SIAM J. Comput. 6(2), 1977).
#[derive(Clone, Debug)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
    include: bool,
    held: String,
}

/// What a piece of text brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopScan {
    /// Text that belongs to the output, held back before or new.
    pub text: String,
    /// The stop string that was found; nothing comes after it.
    pub found: Option<String>,
}

#[derive(Clone, Debug)]
struct Pattern {
    text: Arc<str>,
    /// For each prefix but the empty one: the length of the longest shorter prefix that it ends in.
    fallbacks: Arc<[usize]>,
    /// Length of the longest prefix that the text so far ends in; less than the whole between pieces.
    matched: usize,
}

impl StopStrings {
    /// Looks for `stops`, none of which is empty; with `include` a stop string belongs to the output.
    pub fn new(stops: &[String], include: bool) -> Self {
        let patterns = stops.iter().map(|stop| Pattern::new(stop)).collect();
        Self { patterns, include, held: String::new() }
    }

    /// Takes the next piece of text. A stop string that ends in it counts only if `may_stop`.
    pub fn push(&mut self, piece: &str, may_stop: bool) -> StopScan {
        let before = self.held.len();
        self.held.push_str(piece);
        for (index, byte) in piece.bytes().enumerate() {
            let complete = self.advance(byte);
            if may_stop && let Some(stop) = complete {
                let end = before + index + 1;
                self.held.truncate(if self.include { end } else { end.saturating_sub(stop.len()) });
                return StopScan { text: std::mem::take(&mut self.held), found: Some(stop) };
            }
        }
        let kept = match self.include {
            true => 0,
            false => self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0),
        };
        let kept = self.held.split_off(self.held.len() - kept);
        StopScan { text: std::mem::replace(&mut self.held, kept), found: None }
    }

    /// Gives what was held back: the text ends here.
    pub fn release(&mut self) -> String {
        self.patterns.iter_mut().for_each(|pattern| pattern.matched = 0);
        std::mem::take(&mut self.held)
    }

    /// Moves every pattern on by one byte; gives the longest one that is complete with it.
    fn advance(&mut self, byte: u8) -> Option<String> {
        let complete = self.patterns.iter_mut().filter_map(|pattern| pattern.advance(byte));
        complete.max_by_key(|stop| stop.len()).map(str::to_owned)
    }
}

impl Pattern {
    fn new(stop: &str) -> Self {
        assert!(!stop.is_empty(), "a stop string is empty");
        let (mut fallbacks, mut matched) = (vec![0], 0);
        for byte in stop.bytes().skip(1) {
            matched = next(stop, &fallbacks, matched, byte);
            fallbacks.push(matched);
        }
        Self { text: stop.into(), fallbacks: fallbacks.into(), matched: 0 }
    }

    fn advance(&mut self, byte: u8) -> Option<&str> {
        self.matched = next(&self.text, &self.fallbacks, self.matched, byte);
        if self.matched < self.text.len() {
            return None;
        }
        self.matched = self.fallbacks[self.matched - 1];
        Some(&self.text)
    }
}

/// Length of the longest prefix of `stop` that a text ends in after `byte`, where it was `matched` before.
fn next(stop: &str, fallbacks: &[usize], mut matched: usize, byte: u8) -> usize {
    let stop = stop.as_bytes();
    while matched > 0 && stop[matched] != byte {
        matched = fallbacks[matched - 1];
    }
    matched + usize::from(stop[matched] == byte)
}
