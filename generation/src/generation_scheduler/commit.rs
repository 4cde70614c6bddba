//! What a step changes: computed tokens, drawn tokens, siblings that part, sequences that end.

use std::collections::{HashMap, HashSet};

use super::GenerationScheduler;
use crate::sequence::{Age, SequenceId};
use crate::step::{EndCause, EndedSequence, StepOutcome};

impl GenerationScheduler {
    /// Takes note of what came of the last batch and gives the sequences that ended by it, which are let go. Their
    /// last token is valid. What was drawn for sequences that were let go meanwhile is ignored.
    ///
    /// # Panics
    /// When a row that was not deferred lacks the token of one of its draws.
    pub fn commit(&mut self, outcome: StepOutcome) -> Vec<EndedSequence> {
        let drawn: HashMap<_, _> = outcome.drawn.iter().map(|drawn| (drawn.sequence, drawn.token)).collect();
        let deferred: HashSet<_> = outcome.deferred.into_iter().collect();
        let (waits, done): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.in_flight).into_iter().partition(|row| deferred.contains(&row.row));
        let mut ended = Vec::new();
        for row in &done {
            let Some(sequence) = self.roster.running_mut(row.age) else { continue };
            sequence.advance(row.tokens);
            self.blocks.record(sequence);
            if sequence.pending() == 0 {
                self.draw(row.age, &drawn, &mut ended);
            }
        }
        let ran = done.iter().map(|row| row.domain).collect();
        self.turns.end(&ran, &waits.iter().map(|row| row.domain).collect());
        ended
    }

    /// The device has lost all that blocks held: who runs waits again, in the old order, and is computed anew; no prefix
    /// is known any more. Stands in for the commit of a step that is in flight. No preemption in the figures, as nobody
    /// took the blocks.
    pub fn forget_blocks(&mut self) {
        self.in_flight.clear();
        while self.roster.preempt_youngest() {}
        self.blocks.reset_prefixes();
    }

    /// Appends a token to each of the siblings at `place`, which part by that.
    fn draw(&mut self, place: Age, drawn: &HashMap<SequenceId, u32>, ended: &mut Vec<EndedSequence>) {
        for age in self.roster.part(place) {
            let Some(sequence) = self.roster.running_mut(age) else { continue };
            let id = sequence.members[0].id;
            let Some(token) = drawn.get(&id) else { panic!("{id:?} was computed and no token drawn for it") };
            sequence.push(*token);
            let (len, has_all) = (sequence.len(), sequence.has_all_tokens());
            if let Some(cause) = self.end_cause(len, has_all) {
                self.roster.remove(id);
                ended.push(EndedSequence { sequence: id, cause });
            }
        }
    }

    /// A sequence is told to end before it asks for a block that not even an empty pool has: alone, it would preempt
    /// itself for ever.
    fn end_cause(&self, len: usize, has_all_tokens: bool) -> Option<EndCause> {
        if has_all_tokens {
            Some(EndCause::MaxTokens)
        } else if len >= self.limits.max_context.get() {
            Some(EndCause::ContextFull)
        } else if len > self.limits.capacity() {
            Some(EndCause::CacheFull)
        } else {
            None
        }
    }
}
