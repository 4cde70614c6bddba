//! Text generation: prompts in, tokens out, step by step.
//!
//! A request's way: [admission](GenerationConfigs), then its prompt is read (chat template, tokenizer) while its adapter is
//! found or loaded, then one job to the owner thread. There the scheduler of `polylora-generation` plans a step, a
//! [`StepRunner`] computes it, tokens are drawn and told, and the scheduler takes note. Who drops the stream is noticed
//! before the next step.

mod decoding;
mod generation_engine;
mod generation_metrics;
mod generation_path;
mod generation_worker;
mod live_request;
mod outcome_report;
mod phases;
mod presence;
mod prompt_reader;
mod prompt_scores;
mod reading_room;
mod sampling_rules;
mod speech;
mod step_runner;
mod step_trial;
mod step_warm_up;
mod told_token;

pub use decoding::{Decoding, Streams};
pub use generation_engine::{
    CPU_STEP_TOKENS, GenerationConfigs, GenerationEngine, GenerationParts, MAX_PROMPTS,
};
pub use generation_worker::StepRunnerFactory;
pub use step_runner::{CausalRunner, StepAdapters, StepOutput, StepRowOutcome, StepRunner};
