//! Whether a runner computes steps that no client has made.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use polylora_generation::{BlockId, Domain, SequenceId, StepBatch, StepRow};

use super::step_runner::{StepAdapters, StepOutput, StepRowOutcome, StepRunner};
use crate::device_trial::MAX_LOST_BATCHES;
use crate::runner::RunError;

/// Has `runner`, whose blocks nobody holds, compute the shortest step there is, through the base model.
///
/// # Errors
/// What it did instead.
pub(super) fn try_step(runner: &mut dyn StepRunner) -> Result<(), RunError> {
    let found = match step_of_nobody(runner, (0, 1), 1) {
        Ok(Ok(output)) => match &output.rows[..] {
            [StepRowOutcome::Computed { .. }] if output.logits.iter().all(|logit| logit.is_finite()) => {
                return Ok(());
            }
            _ => "a row of the base model was not computed".to_owned(),
        },
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it panicked".to_owned(),
    };
    let reason = format!("{MAX_LOST_BATCHES} steps in a row lost it, and then one of its own: {found}");
    Err(RunError::DeviceLost { reason })
}

/// Has `runner` compute so many tokens after those of the context, through the base model, in its first `blocks` blocks.
pub(super) fn step_of_nobody(
    runner: &mut dyn StepRunner,
    (context, tokens): (usize, usize),
    blocks: usize,
) -> thread::Result<Result<StepOutput, RunError>> {
    let nobody = SequenceId(u64::MAX);
    let row = StepRow {
        sequence: nobody,
        domain: Domain::Base,
        tokens: vec![0; tokens],
        context,
        cached: 0,
        blocks: (0..blocks as u32).map(BlockId).collect(),
        draws: vec![nobody],
        targets: vec![],
    };
    let step = StepBatch { rows: vec![row], copies: vec![] };
    catch_unwind(AssertUnwindSafe(|| runner.run(&step, &StepAdapters::new())))
}
