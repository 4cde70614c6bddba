//! The usage of a reply while it comes.

use super::generation_usage::GenerationUsage;
use crate::generation_replies::PromptFacts;

/// Tokens so far, by prompt.
#[derive(Clone, Debug, Default)]
pub struct StreamedUsage {
    prompts: Vec<PromptUsage>,
}

#[derive(Clone, Debug, Default)]
struct PromptUsage {
    tokens: usize,
    cached: usize,
    /// Tokens of each copy.
    copies: Vec<usize>,
}

impl StreamedUsage {
    /// A prompt has been computed.
    pub fn started(&mut self, prompt: usize, facts: &PromptFacts) {
        let usage = self.prompt(prompt);
        usage.tokens = facts.tokens.len();
        usage.cached = facts.cached_tokens;
    }

    /// A copy has so many more tokens.
    pub fn generated(&mut self, prompt: usize, copy: usize, tokens: usize) {
        let copies = &mut self.prompt(prompt).copies;
        if copies.len() <= copy {
            copies.resize(copy + 1, 0);
        }
        copies[copy] += tokens;
    }

    /// Of one copy and its prompt, as vLLM tells it with a piece.
    pub fn of_copy(&self, prompt: usize, copy: usize) -> GenerationUsage {
        let Some(usage) = self.prompts.get(prompt) else { return GenerationUsage::default() };
        GenerationUsage::new(usage.tokens, usage.cached, usage.copies.get(copy).copied().unwrap_or(0))
    }

    /// Of all of it.
    pub fn total(&self) -> GenerationUsage {
        let sum = |of: fn(&PromptUsage) -> usize| self.prompts.iter().map(of).sum();
        GenerationUsage::new(
            sum(|prompt| prompt.tokens),
            sum(|prompt| prompt.cached),
            sum(|prompt| prompt.copies.iter().sum()),
        )
    }

    fn prompt(&mut self, prompt: usize) -> &mut PromptUsage {
        if self.prompts.len() <= prompt {
            self.prompts.resize_with(prompt + 1, PromptUsage::default);
        }
        &mut self.prompts[prompt]
    }
}
