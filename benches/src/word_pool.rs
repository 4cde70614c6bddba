//! Words that the model's tokenizer takes as one token each, to make texts of a given length.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{BenchError, Random};

/// Fewer words than this would make texts alike.
const FEWEST_WORDS: usize = 1000;

/// Plain words of one token each.
#[derive(Debug)]
pub struct WordPool {
    words: Vec<String>,
    random: Random,
    given: HashSet<String>,
}

impl WordPool {
    /// The lower-case ASCII words of 3 to 9 letters in `dir/tokenizer.json`.
    ///
    /// # Errors
    /// When the file cannot be read or has too few of them.
    pub fn read(dir: &Path, seed: u64) -> Result<Self, BenchError> {
        let file = dir.join("tokenizer.json");
        let json: Value = serde_json::from_slice(&fs::read(&file)?)?;
        let is_plain = |w: &&String| (3..=9).contains(&w.len()) && w.bytes().all(|b| b.is_ascii_lowercase());
        let vocabulary = json["model"]["vocab"].as_object().into_iter().flat_map(|v| v.keys());
        let words: BTreeSet<String> = vocabulary.filter(is_plain).cloned().collect();
        if words.len() < FEWEST_WORDS {
            return Err(BenchError::FewWords { file, found: words.len(), expected: FEWEST_WORDS });
        }
        Ok(Self::of(words.into_iter().collect(), seed))
    }

    /// These words, of one token each.
    pub(crate) fn of(words: Vec<String>, seed: u64) -> Self {
        Self { words, random: Random::new(seed), given: HashSet::new() }
    }

    /// A text of `tokens` tokens, the two special ones included; none that was given before.
    pub fn text(&mut self, tokens: usize) -> String {
        assert!(tokens >= 5, "texts that short repeat");
        loop {
            let words: Vec<&str> =
                (2..tokens).map(|_| self.words[self.random.below(self.words.len())].as_str()).collect();
            let text = words.join(" ");
            if self.given.insert(text.clone()) {
                return text;
            }
        }
    }

    /// A number below `bound`, from the pool's own sequence.
    pub fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }
}
