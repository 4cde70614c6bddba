//! The scheduler of generation: who computes which tokens in the next forward pass, and in which blocks.

mod commit;
mod plan;

use crate::adapter_turns::AdapterTurns;
use crate::domain::Domain;
use crate::kv_blocks::KvBlocks;
use crate::limits::{Refusal, SchedulerLimits};
use crate::roster::Roster;
use crate::sequence::{Age, NewSequence, SequenceId};

/// Sequences that wait or run, and the books of the KV cache. It knows no tensor and no time.
///
/// A life: [`enqueue`](Self::enqueue); when it is the oldest that waits and there is room, it gets blocks for all its
/// tokens and runs. Its prompt is computed in chunks, in what decodes leave of a step's tokens (Sarathi-Serve, OSDI
/// 2024), and sequences come and go at every step (Orca, OSDI 2022). After the prompt, siblings part: they share its
/// blocks, and whoever first writes into a shared one copies it. A decode that finds no block sends the youngest that
/// runs back to wait; that one's blocks stay known while nobody needs them, and what is lost is computed again.
///
/// Laws:
/// - One step after the other: [`next_batch`](Self::next_batch), the device, [`commit`](Self::commit).
/// - A step has at most `max_batch_tokens` tokens and `most_adapters` adapters.
/// - Every sequence that runs and has its whole prompt computed gets its token in every step, whatever prompts wait,
///   unless it is preempted or its adapter is not in turn.
/// - Whoever runs is older than whoever waits, and the oldest is never preempted. So in steps where its adapter is in
///   turn, the oldest sequence with p tokens of prompt and m of `max_tokens` is done in at most
///   `w = ceil((p + m) / (max_batch_tokens - max_running + 1)) + m` steps (`max_running` as
///   [applied](SchedulerLimits::effective_max_running)), and whoever is enqueued ends within the sum of w over the
///   older ones and itself. With room for K of A adapters that have work, add
///   [`ADAPTER_TURN_STEPS`](crate::ADAPTER_TURN_STEPS) to each w and multiply by `ceil(A / K)`.
/// - Where prompts are scored, a step judges at most `max_targets` of their tokens, the oldest prompts' first; in w, that
///   bound then stands in place of `max_batch_tokens - max_running + 1` where it is lower.
/// - A sequence that cannot grow any more, because of the context or of the whole pool, ends; it does not wait.
/// - No block is written while two sequences hold it, and none is found under another [root](crate::PrefixRoot).
///
/// The order of admission is that of arrival, also when an adapter is not in turn: its sequences then hold blocks and
/// wait for the turn. That costs throughput when many adapters share few places; skipping them would let later ones
/// starve them of blocks.
#[derive(Debug)]
pub struct GenerationScheduler {
    limits: SchedulerLimits,
    roster: Roster,
    blocks: KvBlocks,
    turns: AdapterTurns,
    in_flight: Vec<RowInFlight>,
    preemptions: u64,
}

/// A scheduler's figures at one moment; counts of events are since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerStats {
    /// Sequences that hold blocks; siblings count one by one.
    pub running: usize,
    /// Requests that wait, the preempted among them; siblings that did not part count once.
    pub waiting: usize,
    /// Times that a sequence lost its blocks to an older one.
    pub preemptions: u64,
    /// Blocks in all.
    pub blocks: usize,
    /// Blocks that sequences hold.
    pub used_blocks: usize,
    /// Blocks that nobody holds and that are kept for their content, until nothing else is free.
    pub cached_blocks: usize,
    /// Blocks that nobody holds and that have no content.
    pub free_blocks: usize,
    /// Tokens that were looked up in the prefix cache; a preempted sequence does not count again.
    pub prefix_queries: u64,
    /// Those of them that were found.
    pub prefix_hits: u64,
}

/// A row that the device computes.
#[derive(Debug)]
struct RowInFlight {
    age: Age,
    row: SequenceId,
    domain: Domain,
    tokens: usize,
}

impl GenerationScheduler {
    /// A scheduler of nothing yet.
    pub fn new(limits: SchedulerLimits) -> Self {
        Self {
            limits,
            roster: Roster::default(),
            blocks: KvBlocks::new(limits),
            turns: AdapterTurns::new(limits.most_adapters),
            in_flight: Vec::new(),
            preemptions: 0,
        }
    }

    /// The bounds it was made with.
    pub fn limits(&self) -> &SchedulerLimits {
        &self.limits
    }

    /// Takes a request in, behind all others. It need not fit at its full length: see
    /// [`EndCause`](crate::EndCause).
    ///
    /// # Errors
    /// When not one new token would ever fit, or too many wait.
    ///
    /// # Panics
    /// When one of its ids is known already.
    pub fn enqueue(&mut self, new: NewSequence) -> Result<(), Refusal> {
        self.limits.check(new.prompt.len(), new.copies.get())?;
        let (waiting, max_waiting) = (self.roster.new_count(), self.limits.max_waiting.get());
        if waiting >= max_waiting {
            return Err(Refusal::QueueFull { waiting, max_waiting });
        }
        self.roster.enqueue(new);
        Ok(())
    }

    /// Lets a sequence go that has all it needs, because of its tokens or its text. Its blocks come back at once,
    /// those that siblings share with the last of them. Says whether the sequence was there.
    ///
    /// Between a batch and its commit, too: what was computed for it is then ignored.
    pub fn finish(&mut self, id: SequenceId) -> bool {
        self.roster.remove(id)
    }

    /// Forgets what the blocks of a sequence are known for, those that it took from the cache as those that it computed: what
    /// they hold was seen to be of no use. Whoever comes later computes it anew; who has the blocks already keeps them.
    /// The sequence goes on; it is let go next.
    pub fn forget_prefix(&mut self, id: SequenceId) {
        if let Some(sequence) = self.roster.find_mut(id) {
            self.blocks.forget(sequence);
        }
    }

    /// Lets a sequence go that nobody waits for, wherever it stands; otherwise as [`finish`](Self::finish).
    pub fn abort(&mut self, id: SequenceId) -> bool {
        self.roster.remove(id)
    }

    /// Whether the sequence waits or runs.
    pub fn contains(&self, id: SequenceId) -> bool {
        self.roster.contains(id)
    }

    /// Whether no sequence waits or runs.
    pub fn is_empty(&self) -> bool {
        self.roster.is_empty()
    }

    /// Forgets every prefix. Sequences that run go on undisturbed.
    pub fn reset_prefix_cache(&mut self) {
        self.blocks.reset_prefixes();
    }

    /// The figures at this moment. O(running).
    pub fn stats(&self) -> SchedulerStats {
        let (pool, usage) = (self.blocks.pool_stats(), self.blocks.prefix_usage());
        SchedulerStats {
            running: self.roster.running_members(),
            waiting: self.roster.waiting_count(),
            preemptions: self.preemptions,
            blocks: pool.blocks,
            used_blocks: pool.leased,
            cached_blocks: pool.idle,
            free_blocks: pool.free,
            prefix_queries: usage.queries,
            prefix_hits: usage.hits,
        }
    }

    /// Checks the books of sequences, tables, blocks and prefixes against each other. O(all tokens).
    ///
    /// # Panics
    /// When they disagree.
    pub fn check_integrity(&self) {
        self.roster.check_integrity();
        let tables = self.roster.running().map(|(_, sequence)| &sequence.table);
        self.blocks.check_integrity(tables.flat_map(|table| table.ids(table.len())));
        assert!(self.roster.running_members() <= self.limits.effective_max_running(), "too many run");
        for (age, sequence) in self.roster.running() {
            let room = sequence.table.len() * self.limits.block_size.get();
            assert!(sequence.computed <= room, "{age:?} has {} tokens in {room}", sequence.computed);
            assert!(sequence.pending() > 0, "{age:?} has nothing to compute");
        }
    }
}
