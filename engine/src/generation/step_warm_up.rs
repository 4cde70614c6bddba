//! The steps that a device computes before clients come: what it compiles for them, no client waits for.

use polylora_generation::SchedulerLimits;

use super::step_runner::StepRunner;
use super::step_trial::step_of_nobody;
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
        let failed = |reason: &str| RunError::Start {
            reason: format!("warming up with a step of {tokens} tokens failed: {reason}"),
        };
        match step_of_nobody(runner, (context, tokens), limits.blocks_for(context + tokens)) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(failed(&error.to_string())),
            Err(panic) => return Err(failed(&format!("it panicked: {}", panic_message(panic.as_ref())))),
        }
    }
    Ok(())
}
