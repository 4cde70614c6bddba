//! The steps that a device computes before clients come: what it compiles for them, no client waits for.

use std::panic::{AssertUnwindSafe, catch_unwind};

use polylora_generation::{BlockId, Domain, SchedulerLimits, SequenceId, StepBatch, StepRow};

use super::step_runner::{StepAdapters, StepRunner};
use crate::runner::RunError;
use crate::runner_builder::panic_message;

/// Tokens of the prompt, where a step and the cache have room for them.
const PROMPT: usize = 32;

/// Has `runner`, whose blocks nobody holds, read a short prompt through the base model and go on by a token.
///
/// # Errors
/// What it did instead: it would do so to a client, too.
pub(super) fn warm_up(runner: &mut dyn StepRunner, limits: &SchedulerLimits) -> Result<(), RunError> {
    let most = limits.max_batch_tokens.get().min(limits.max_context.get()).min(limits.capacity());
    let prompt = PROMPT.min(most - 1).max(1);
    let steps = [(0, prompt), (prompt, 1)];
    for (context, tokens) in
        steps.into_iter().filter(|(context, tokens)| context + tokens <= limits.capacity())
    {
        let step = StepBatch { rows: vec![row(limits, context, tokens)], copies: vec![] };
        let failed = |reason: &str| RunError::Start {
            reason: format!("warming up with a step of {tokens} tokens failed: {reason}"),
        };
        match catch_unwind(AssertUnwindSafe(|| runner.run(&step, &StepAdapters::new()))) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(failed(&error.to_string())),
            Err(panic) => return Err(failed(&format!("it panicked: {}", panic_message(panic.as_ref())))),
        }
    }
    Ok(())
}

fn row(limits: &SchedulerLimits, context: usize, tokens: usize) -> StepRow {
    let nobody = SequenceId(u64::MAX);
    StepRow {
        sequence: nobody,
        domain: Domain::Base,
        tokens: vec![0; tokens],
        context,
        cached: 0,
        blocks: (0..limits.blocks_for(context + tokens) as u32).map(BlockId).collect(),
        draws: vec![nobody],
        targets: vec![],
    }
}
