//! The next step: decodes, then prompts that run, then prompts that wait.

use super::{GenerationScheduler, RowInFlight};
use crate::kv_blocks::OutOfBlocks;
use crate::sequence::Age;
use crate::step::{BlockCopy, StepBatch, StepRow};

/// A step while it is filled.
struct StepPlan {
    tokens_left: usize,
    targets_left: usize,
    rows: Vec<(Age, StepRow)>,
    copies: Vec<BlockCopy>,
    preempted: bool,
}

impl GenerationScheduler {
    /// The next step; `None` when no sequence is left.
    ///
    /// # Panics
    /// When the last step was not committed.
    pub fn next_batch(&mut self) -> Option<StepBatch> {
        assert!(self.in_flight.is_empty(), "a step is in flight: commit it first");
        while !self.roster.is_empty() {
            let plan = self.plan();
            if !plan.rows.is_empty() {
                return Some(self.send(plan));
            }
            // All whose adapters are in turn lost their blocks to older ones that are not in turn yet. The next plan
            // has fewer that run, and those turns come now: there is nobody else to take them.
            assert!(plan.preempted, "sequences are left and none can go on");
        }
        None
    }

    fn plan(&mut self) -> StepPlan {
        self.turns.begin(self.roster.running().map(|(_, sequence)| sequence.domain));
        let mut plan = StepPlan {
            tokens_left: self.limits.max_batch_tokens.get(),
            targets_left: self.limits.max_targets.get(),
            rows: Vec::new(),
            copies: Vec::new(),
            preempted: false,
        };
        self.plan_decodes(&mut plan);
        self.plan_prefills(&mut plan);
        // Whoever came now would only take the blocks that were given up.
        if !plan.preempted {
            self.admit(&mut plan);
        }
        plan
    }

    /// One token of every sequence that has one to compute. They always fit: no more run than a step has tokens.
    fn plan_decodes(&mut self, plan: &mut StepPlan) {
        for age in self.in_turn(|pending| pending == 1) {
            if self.make_room(age, plan) {
                self.plan_row(age, plan);
            }
        }
    }

    /// Chunks of prompts, the oldest first. They have their blocks since they were admitted.
    fn plan_prefills(&mut self, plan: &mut StepPlan) {
        for age in self.in_turn(|pending| pending > 1) {
            if plan.tokens_left == 0 {
                break;
            }
            if let Some(sequence) = self.roster.running_mut(age) {
                self.blocks.adopt(sequence);
                self.plan_row(age, plan);
            }
        }
    }

    /// Lets the oldest that wait run, one after the other, as far as there is room for them.
    ///
    /// Only while the step has tokens left, since a later look finds more known blocks. One block stays available for
    /// each that runs already, so that nobody is preempted for want of it as soon as all reach their next block.
    fn admit(&mut self, plan: &mut StepPlan) {
        let mut running = self.roster.running_members();
        while plan.tokens_left > 0 {
            let Some(oldest) = self.roster.oldest_waiting_mut() else { break };
            let (members, domain) = (oldest.members.len(), oldest.domain);
            let has_place = running + members <= self.limits.effective_max_running();
            if !has_place || !self.blocks.admit(oldest, running) {
                break;
            }
            running += members;
            let Some(age) = self.roster.admit_oldest() else { break };
            if self.turns.join(domain) {
                self.plan_row(age, plan);
            }
        }
    }

    /// Who runs and is in turn and has such a number of tokens to compute, the oldest first.
    fn in_turn(&self, wanted: impl Fn(usize) -> bool) -> Vec<Age> {
        let running = self.roster.running();
        let chosen = running
            .filter(|(_, sequence)| wanted(sequence.pending()) && self.turns.is_on_stage(sequence.domain));
        chosen.map(|(age, _)| age).collect()
    }

    /// Makes the next token's place writable, at the cost of the youngest that runs; says whether the sequence still
    /// runs, which it does not when it is the youngest itself.
    fn make_room(&mut self, age: Age, plan: &mut StepPlan) -> bool {
        while let Some(sequence) = self.roster.running_mut(age) {
            match self.blocks.make_writable(sequence) {
                Ok(copy) => {
                    plan.copies.extend(copy);
                    return true;
                }
                Err(OutOfBlocks) => {
                    self.roster.preempt_youngest();
                    self.preemptions += 1;
                    plan.preempted = true;
                }
            }
        }
        false
    }

    fn plan_row(&mut self, age: Age, plan: &mut StepPlan) {
        let Some(sequence) = self.roster.running_mut(age) else { return };
        let count = sequence.fitting(plan.tokens_left, plan.targets_left);
        if count == 0 {
            // Older prompts that are scored took the step's targets.
            return;
        }
        let row = sequence.row(count, |tokens| self.limits.blocks_for(tokens));
        plan.tokens_left -= row.tokens.len();
        plan.targets_left -= row.targets.len();
        plan.rows.push((age, row));
    }

    /// Puts the rows in order and remembers them until the commit.
    fn send(&mut self, plan: StepPlan) -> StepBatch {
        let StepPlan { mut rows, copies, .. } = plan;
        rows.sort_by_cached_key(|(age, row)| (self.turns.order(row.domain), *age));
        let in_flight = |(age, row): &(Age, StepRow)| {
            let (age, tokens) = (*age, row.tokens.len());
            RowInFlight { age, row: row.sequence, domain: row.domain, tokens }
        };
        self.in_flight = rows.iter().map(in_flight).collect();
        StepBatch { rows: rows.into_iter().map(|(_, row)| row).collect(), copies }
    }
}
