//! What a step that was computed comes to: prompts judged, tokens drawn and told, copies that end.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use polylora_generation::{DrawnToken, LogitsError, SequenceId, StepBatch, StepOutcome, StepRow};

use super::Worker;
use crate::generation::live_request::TokenOutcome;
use crate::generation::step_runner::{StepOutput, StepRowOutcome};
use crate::runner_builder::panic_message;
use crate::{Finish, GenerateError, GenerationEvent};

/// Tokens that were drawn in a step.
struct DrawnStep {
    output: StepOutput,
    now: Instant,
    commit: StepOutcome,
    /// By sequence, in the order in which they were drawn.
    outcomes: Vec<(SequenceId, TokenOutcome)>,
}

impl Worker {
    /// Draws the tokens of a step, has the scheduler know, and tells them: blocks, permits and figures first, so that who
    /// has his last token finds all of it done.
    pub(super) fn settle(&mut self, step: &StepBatch, mut output: StepOutput) {
        let rows = std::mem::take(&mut output.rows);
        let (now, commit) = (Instant::now(), StepOutcome::default());
        let mut drawn = DrawnStep { output, now, commit, outcomes: vec![] };
        for (row, outcome) in step.rows.iter().zip(rows) {
            match outcome {
                StepRowOutcome::Computed { logits } => {
                    self.apart(row.sequence, |worker| worker.settle_row(row, logits, &mut drawn));
                }
                StepRowOutcome::Deferred => drawn.commit.deferred.push(row.sequence),
                StepRowOutcome::Failed(error) => self.fail_owner(row.sequence, error),
            }
        }
        let ended = self.scheduler.commit(drawn.commit);
        for (id, outcome) in &drawn.outcomes {
            if outcome.event.finish.is_some() {
                self.scheduler.finish(*id);
            }
        }
        self.metrics.scheduled(&self.scheduler.stats());
        for (id, outcome) in drawn.outcomes {
            self.tell(id, outcome.event);
        }
        for over in ended {
            let Some((first, copy)) = self.owners.get(&over.sequence).copied() else { continue };
            let mut closed = None;
            self.apart(over.sequence, |worker| {
                let request = worker.requests.get_mut(&first);
                closed = request.and_then(|request| request.close(copy, worker.door.as_ref()));
            });
            if let Some(event) = closed {
                self.tell(over.sequence, event);
            }
        }
    }

    fn settle_row(&mut self, row: &StepRow, logits: Range<usize>, drawn: &mut DrawnStep) {
        let (found, wanted) = (logits.len(), row.wanted_logits());
        if found != wanted || logits.end > drawn.output.logits_count() {
            let reason = format!("the device gave logits {logits:?} where {wanted} were wanted");
            return self.fail_owner(row.sequence, GenerateError::Internal { reason });
        }
        if let Err(error) = self.judge(row, logits.start, &mut drawn.output) {
            return self.fail_without_distribution(row.sequence, &error);
        }
        // All copies draw before the request starts: who has started is told of success.
        let mut tokens = Vec::with_capacity(row.draws.len());
        for id in &row.draws {
            let Some((first, copy)) = self.owners.get(id).copied() else { continue };
            let Some(request) = self.requests.get_mut(&first) else { continue };
            match request.draw(copy, drawn.output.logits_at(logits.end - 1), &mut self.scratch) {
                Ok(token) => tokens.push((*id, first, copy, token)),
                Err(error) => return self.fail_without_distribution(*id, &error),
            }
        }
        for (id, first, copy, token) in tokens {
            let Some(request) = self.requests.get_mut(&first) else { continue };
            drawn.commit.drawn.push(DrawnToken { sequence: id, token: token.token });
            let outcome = request.push(copy, token, self.door.as_ref(), drawn.now);
            self.metrics.drew(outcome.wait);
            drawn.outcomes.push((id, outcome));
        }
        let owner = row.draws.first().and_then(|id| self.owners.get(id));
        let request = owner.and_then(|(first, _)| self.requests.get_mut(first));
        if let Some(request) = request.filter(|request| !request.has_started()) {
            self.metrics.read_prompt(request.tokens().0);
            request.start(row.cached);
        }
    }

    /// Does something for the request of a sequence; a panic fails it alone.
    fn apart(&mut self, id: SequenceId, work: impl FnOnce(&mut Self)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(self))) {
            let reason = format!("its text could not be made: {}", panic_message(panic.as_ref()));
            self.fail_owner(id, GenerateError::Internal { reason });
        }
    }

    /// Judges the row's part of a prompt that is scored.
    fn judge(&mut self, row: &StepRow, first: usize, output: &mut StepOutput) -> Result<(), LogitsError> {
        let owner = self.owners.get(&row.sequence).and_then(|(first, _)| self.requests.get_mut(first));
        let Some(request) = owner else { return Ok(()) };
        for (index, target) in row.targets.iter().enumerate() {
            let place = (row.context + index + 1, *target);
            request.judge(place, output.logits_at(first + index), &mut self.scratch)?;
        }
        Ok(())
    }

    /// Tells an event of a copy, which ends with it if it says so; the last copy ends its request.
    fn tell(&mut self, id: SequenceId, event: GenerationEvent) {
        let Some((first, _)) = self.owners.get(&id).copied() else { return };
        let Some(request) = self.requests.get_mut(&first) else { return };
        let Some(finish) = &event.finish else { return request.tell(event) };
        self.owners.remove(&id);
        self.metrics.ended(if *finish == Finish::Length { "length" } else { "stop" });
        if !request.is_last_end() {
            return request.tell(event);
        }
        if let Some(request) = self.requests.remove(&first) {
            let (prompt, drawn) = request.tokens();
            self.metrics.over(request.phases(), (prompt, drawn));
            tracing::debug!(prompt, drawn, "a text was generated");
            request.conclude(event);
        }
    }
}
