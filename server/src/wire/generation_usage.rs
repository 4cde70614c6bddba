//! How many tokens a reply took.

use serde::Serialize;
use utoipa::ToSchema;

/// Tokens of prompts and replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct GenerationUsage {
    /// Tokens of the prompts, each counted once however many copies are made of it.
    pub prompt_tokens: usize,
    /// Both together.
    pub total_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// More of the prompts.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// More of the prompts' tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Those that were not computed because a cache had them.
    pub cached_tokens: usize,
}

impl GenerationUsage {
    /// So many tokens.
    pub fn new(prompt_tokens: usize, cached_tokens: usize, completion_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
        }
    }
}
