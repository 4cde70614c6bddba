//! Generation without a device: which sequences compute which tokens in which blocks of the KV cache, step by step; how
//! tokens are drawn from logits; and how they become text.
//!
//! There is no tensor here, no clock, no thread, no file and no JSON: every history can be played in a test.
//! [`GenerationScheduler`] plans steps, [`SequenceSampler`] draws the tokens of one sequence, [`SequenceText`] turns them into
//! text and knows when the sequence ends.

mod adapter_turns;
mod block_pool;
mod block_table;
mod boltzmann;
mod detokenizer;
mod domain;
#[cfg(test)]
mod draw_laws;
mod finish_reason;
mod generation_scheduler;
mod kv_blocks;
mod limits;
mod logit_blocks;
mod logit_edits;
mod logit_filters;
mod logprobs;
mod penalties;
mod prefix_cache;
mod random;
mod rank_key;
mod roster;
mod sampler;
mod sampling_params;
mod sequence;
mod sequence_text;
mod step;
mod stop_strings;
mod token_text;

pub use adapter_turns::ADAPTER_TURN_STEPS;
pub use block_pool::{BlockId, BlockLease, BlockPool, PoolStats, TakenBlock};
pub use block_table::BlockTable;
pub use detokenizer::Detokenizer;
pub use domain::{AdapterKey, Domain};
pub use finish_reason::{FinishReason, StopMatch};
pub use generation_scheduler::{GenerationScheduler, SchedulerStats};
pub use limits::{Refusal, SchedulerLimits};
pub use logit_blocks::LogitsError;
pub use logprobs::TokenLogprobs;
pub use prefix_cache::{BlockHash, PrefixCache, PrefixChain, PrefixRoot, PrefixUsage};
pub use random::RandomStream;
pub use sampler::{DrawScratch, Drawn, SamplerSetup, SequenceSampler};
pub use sampling_params::{
    GREEDY_TEMPERATURE, MAX_LOGIT_BIAS, MAX_LOGIT_BIASES, MAX_LOGPROBS, MAX_N, MAX_STOP_BYTES,
    MAX_STOP_STRINGS, MAX_STOP_TOKEN_IDS, SamplingError, SamplingParams,
};
pub use sequence::{NewSequence, SequenceId};
pub use sequence_text::{SequenceText, TextEvent};
pub use step::{BlockCopy, DrawnToken, EndCause, EndedSequence, StepBatch, StepOutcome, StepRow};
pub use stop_strings::{StopScan, StopStrings};
pub use token_text::{SpecialTokens, TokenText};
