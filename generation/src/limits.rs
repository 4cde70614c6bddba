//! The bounds of a scheduler, and why it refuses a sequence.

use std::num::{NonZeroU32, NonZeroUsize};

/// Bounds of a [`GenerationScheduler`](crate::GenerationScheduler).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Tokens in a block of the KV cache.
    pub block_size: NonZeroUsize,
    /// Blocks of the KV cache.
    pub blocks: NonZeroU32,
    /// Tokens that a sequence may have, its prompt included: what the model was made for.
    pub max_context: NonZeroUsize,
    /// Tokens in one step.
    pub max_batch_tokens: NonZeroUsize,
    /// Sequences that hold blocks at one time; never more than `max_batch_tokens`, so that every one of them gets its
    /// token in one step.
    pub max_running: NonZeroUsize,
    /// Requests that never ran and may wait when another comes; a request for n copies is one. Whoever lost his blocks
    /// to an older one is not counted: he was let in.
    pub max_waiting: NonZeroUsize,
    /// Tokens of prompts that are judged in one step: each takes logits of a whole vocabulary.
    pub max_targets: NonZeroUsize,
    /// Distinct adapters in one step; `None` for any number. The base is no adapter.
    pub most_adapters: Option<NonZeroUsize>,
    /// Whether blocks of equal prefixes are shared between requests.
    pub prefix_caching: bool,
}

/// Why a sequence was not enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing to go on from.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// The model has no room for a single new token.
    #[error(
        "the prompt has {prompt} tokens; with one new token that exceeds the context of {max_context} tokens"
    )]
    ExceedsContext {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that the model was made for.
        max_context: usize,
    },
    /// The KV cache has no room for a single new token, even were it empty.
    #[error(
        "the prompt has {prompt} tokens; with one new token that exceeds the KV cache of {capacity} tokens \
         ({blocks} blocks of {block_size})"
    )]
    ExceedsCache {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that the whole cache holds.
        capacity: usize,
        /// Blocks of the cache.
        blocks: usize,
        /// Tokens in a block.
        block_size: usize,
    },
    /// The copies would never run together.
    #[error("{copies} copies were asked for, at most {max_running} sequences run at one time")]
    TooManyCopies {
        /// Copies asked for.
        copies: usize,
        /// Sequences that run at one time.
        max_running: usize,
    },
    /// Too many wait. The only refusal that may be over a moment later.
    #[error("{waiting} requests wait, at most {max_waiting} may")]
    QueueFull {
        /// Requests that wait for their first step.
        waiting: usize,
        /// Requests that may wait.
        max_waiting: usize,
    },
}

impl SchedulerLimits {
    /// Sequences that run at one time, as it is applied: at most one for each token of a step.
    pub fn effective_max_running(&self) -> usize {
        self.max_running.min(self.max_batch_tokens).get()
    }

    /// Blocks that hold `tokens` tokens.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size.get())
    }

    /// Tokens that the whole KV cache holds.
    pub fn capacity(&self) -> usize {
        self.block_size.get().saturating_mul(self.blocks.get() as usize)
    }

    /// Judges a request by its lengths alone.
    pub(crate) fn check(&self, prompt: usize, copies: usize) -> Result<(), Refusal> {
        let (max_context, capacity, max_running) =
            (self.max_context.get(), self.capacity(), self.effective_max_running());
        if prompt == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        if prompt >= max_context {
            return Err(Refusal::ExceedsContext { prompt, max_context });
        }
        if prompt >= capacity {
            let (blocks, block_size) = (self.blocks.get() as usize, self.block_size.get());
            return Err(Refusal::ExceedsCache { prompt, capacity, blocks, block_size });
        }
        if copies > max_running {
            return Err(Refusal::TooManyCopies { copies, max_running });
        }
        Ok(())
    }
}
