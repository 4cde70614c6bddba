//! Plays requests through a scheduler and a device and checks every step.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroUsize};

use polylora_generation::{
    Domain, EndCause, EndedSequence, GenerationScheduler, NewSequence, Refusal, SchedulerLimits, SequenceId,
    StepBatch, StepRow,
};

use crate::fake_device::{FakeDevice, alone, domain, root};

pub fn limits(block_size: usize, blocks: u32) -> SchedulerLimits {
    SchedulerLimits {
        block_size: some(block_size),
        blocks: NonZeroU32::new(blocks).unwrap(),
        max_context: some(1000),
        max_batch_tokens: some(64),
        max_running: some(16),
        max_waiting: some(1000),
        max_targets: some(1000),
        most_adapters: None,
        prefix_caching: true,
    }
}

pub fn some(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

/// What the client knows of a sequence.
pub struct Live {
    pub domain: Domain,
    pub prompt: Vec<u32>,
    pub drawn: Vec<u32>,
    pub max_tokens: usize,
    alone: Vec<u32>,
    /// The first sequence of its request.
    request: SequenceId,
}

impl Live {
    fn token(&self, position: usize) -> u32 {
        let drawn = || self.drawn[position - self.prompt.len()];
        self.prompt.get(position).copied().unwrap_or_else(drawn)
    }

    fn len(&self) -> usize {
        self.prompt.len() + self.drawn.len()
    }
}

pub struct Client {
    pub scheduler: GenerationScheduler,
    pub device: FakeDevice,
    pub live: BTreeMap<SequenceId, Live>,
    pub steps: usize,
    /// Whether those who ask from now on have their prompts scored.
    pub scores_prompts: bool,
    /// The positions of scored prompts that were judged.
    judged: BTreeMap<SequenceId, BTreeSet<usize>>,
    next_id: u64,
    /// Who drew in the last step and was not let go since.
    drew: BTreeSet<SequenceId>,
    /// Whether adapters wait for each other.
    takes_turns: bool,
}

impl Client {
    pub fn new(limits: SchedulerLimits) -> Self {
        let device = FakeDevice::new(limits.blocks.get() as usize, limits.block_size.get());
        let scheduler = GenerationScheduler::new(limits);
        let takes_turns = limits.most_adapters.is_some();
        Self {
            scheduler,
            device,
            live: BTreeMap::new(),
            steps: 0,
            scores_prompts: false,
            judged: BTreeMap::new(),
            next_id: 0,
            drew: BTreeSet::new(),
            takes_turns,
        }
    }

    /// Enqueues a request and gives the id of its first sequence.
    pub fn ask(
        &mut self,
        number: u8,
        prompt: &[u32],
        copies: usize,
        max: usize,
    ) -> Result<SequenceId, Refusal> {
        let (id, domain, prompt) = (SequenceId(self.next_id), domain(number), prompt.to_vec());
        let (copies, max_tokens) = (some(copies), some(max));
        let root = root(domain);
        self.scheduler.enqueue(NewSequence {
            id,
            prompt: prompt.clone(),
            root,
            domain,
            copies,
            max_tokens,
            scores_prompt: self.scores_prompts,
        })?;
        if self.scores_prompts {
            self.judged.insert(id, BTreeSet::new());
        }
        for sibling in (0..copies.get()).map(|index| id.sibling(index)) {
            let alone = alone(domain, sibling, &prompt, max);
            let live =
                Live { domain, prompt: prompt.clone(), drawn: vec![], max_tokens: max, alone, request: id };
            self.live.insert(sibling, live);
        }
        self.next_id += copies.get() as u64;
        Ok(id)
    }

    /// Lets one of those that are left go.
    pub fn abort_any(&mut self, which: usize) {
        if let Some(id) = self.live.keys().copied().nth(which % self.live.len().max(1)) {
            self.abort(id);
        }
    }

    pub fn finish_any(&mut self, which: usize) {
        if let Some(id) = self.live.keys().copied().nth(which % self.live.len().max(1)) {
            self.live.remove(&id);
            assert!(self.scheduler.finish(id));
        }
    }

    pub fn abort(&mut self, id: SequenceId) {
        self.live.remove(&id);
        self.drew.remove(&id);
        assert!(self.scheduler.abort(id));
        assert!(!self.scheduler.contains(id) && !self.scheduler.finish(id));
        self.scheduler.check_integrity();
    }

    /// One step; says who ended by it, or `None` when there was nothing to do.
    pub fn step(&mut self) -> Option<Vec<EndedSequence>> {
        self.step_with(|_| {}).map(|(_, ended)| ended)
    }

    /// One step, with something happening while the device computes.
    pub fn step_with(
        &mut self,
        meanwhile: impl FnOnce(&mut Self),
    ) -> Option<(StepBatch, Vec<EndedSequence>)> {
        let preemptions = self.scheduler.stats().preemptions;
        let batch = self.scheduler.next_batch();
        self.scheduler.check_integrity();
        assert_eq!(batch.is_none(), self.live.is_empty(), "a step is there as long as a sequence is");
        let batch = batch?;
        self.steps += 1;
        self.check_bounds(&batch);
        batch.rows.iter().for_each(|row| self.check_row(row));
        check_blocks(&batch, self.scheduler.limits().block_size.get());
        if preemptions == self.scheduler.stats().preemptions && !self.takes_turns {
            self.check_decodes(&batch);
        }
        let outcome = self.device.run(&batch);
        meanwhile(self);
        self.drew.clear();
        for drawn in &outcome.drawn {
            if let Some(live) = self.live.get_mut(&drawn.sequence) {
                live.drawn.push(drawn.token);
                assert_eq!(live.drawn.last(), live.alone.get(live.drawn.len() - 1), "not as alone");
                self.drew.insert(drawn.sequence);
            }
        }
        self.takes_turns |= !outcome.deferred.is_empty();
        let ended = self.scheduler.commit(outcome);
        ended.iter().for_each(|ended| self.check_end(*ended));
        self.scheduler.check_integrity();
        Some((batch, ended))
    }

    /// A step in which the device loses all that it holds, and so does the scheduler.
    pub fn lose_step(&mut self) {
        let _ = self.scheduler.next_batch();
        self.lose();
    }

    /// The device loses all that it holds.
    pub fn lose(&mut self) {
        self.device.lose();
        self.scheduler.forget_blocks();
        self.drew.clear();
        let stats = self.scheduler.stats();
        assert_eq!((stats.running, stats.used_blocks, stats.cached_blocks), (0, 0, 0));
        self.scheduler.check_integrity();
    }

    /// Runs until nobody is left.
    pub fn drain(&mut self) -> Vec<EndedSequence> {
        let mut all = vec![];
        while let Some(ended) = self.step() {
            all.extend(ended);
            assert!(self.steps < 100_000, "it goes on for ever");
        }
        all
    }

    fn check_bounds(&self, batch: &StepBatch) {
        let limits = self.scheduler.limits();
        let tokens: usize = batch.rows.iter().map(|row| row.tokens.len()).sum();
        assert!(tokens <= limits.max_batch_tokens.get(), "{tokens} tokens");
        let targets: usize = batch.rows.iter().map(|row| row.targets.len()).sum();
        assert!(targets <= limits.max_targets.get(), "{targets} targets");
        let mut segments: Vec<Domain> = batch.rows.iter().map(|row| row.domain).collect();
        segments.dedup();
        let domains: BTreeSet<Domain> = segments.iter().copied().collect();
        assert_eq!(segments.len(), domains.len(), "rows of a domain are not neighbours");
        let adapters = domains.iter().filter(|domain| domain.adapter().is_some()).count();
        assert!(limits.most_adapters.is_none_or(|most| adapters <= most.get()), "{adapters} adapters");
        let rows: BTreeSet<_> = batch.rows.iter().map(|row| row.sequence).collect();
        assert_eq!(rows.len(), batch.rows.len(), "a sequence has two rows");
    }

    fn check_row(&mut self, row: &StepRow) {
        self.check_targets(row);
        let live = &self.live[&row.sequence];
        assert_eq!(row.domain, live.domain);
        assert!(!row.tokens.is_empty());
        let end = row.context + row.tokens.len();
        let known: Vec<u32> = (row.context..end).map(|position| live.token(position)).collect();
        assert_eq!(row.tokens, known);
        assert_eq!(row.blocks.len(), self.scheduler.limits().blocks_for(end));
        assert_eq!(row.draws.is_empty(), end < live.len(), "{row:?} of {} tokens", live.len());
        assert!(row.draws.is_empty() || row.draws[0] == row.sequence);
        assert!(row.cached < live.prompt.len(), "the last token of a prompt is computed");
    }

    /// A scored prompt is judged position by position, all of it before the first draw, and takes nothing from a cache.
    fn check_targets(&mut self, row: &StepRow) {
        let live = &self.live[&row.sequence];
        let Some(judged) = self.judged.get_mut(&live.request) else {
            return assert_eq!(row.targets, [0u32; 0], "nobody asked for them");
        };
        let positions = row.context + 1..live.prompt.len().min(row.context + 1 + row.targets.len());
        assert_eq!(row.targets, live.prompt.get(positions.clone()).unwrap_or(&[]));
        judged.extend(positions);
        if live.drawn.is_empty() && !row.draws.is_empty() {
            assert!((1..live.prompt.len()).all(|position| judged.contains(&position)), "{judged:?}");
            assert_eq!(row.wanted_logits(), row.targets.len() + 1);
        }
        assert_eq!(row.cached, 0);
    }

    /// Whoever drew in the last step draws in this one, whatever prompts wait.
    fn check_decodes(&self, batch: &StepBatch) {
        let draws: BTreeSet<_> = batch.rows.iter().flat_map(|row| row.draws.iter().copied()).collect();
        for id in self.drew.iter().filter(|id| self.live.contains_key(id)) {
            assert!(draws.contains(id), "{id:?} waits although it could draw");
        }
    }

    fn check_end(&mut self, ended: EndedSequence) {
        let live = self.live.remove(&ended.sequence).expect("it was let go before");
        self.drew.remove(&ended.sequence);
        let limits = self.scheduler.limits();
        let (len, max_context) = (live.len(), limits.max_context.get());
        match ended.cause {
            EndCause::MaxTokens => assert_eq!(live.drawn.len(), live.max_tokens),
            EndCause::ContextFull => assert_eq!(len, max_context),
            EndCause::CacheFull => assert_eq!(len, limits.capacity() + 1),
        }
        assert!(live.drawn.len() <= live.max_tokens && len <= max_context);
    }
}

/// No row writes what another reads, and copies may run side by side.
fn check_blocks(batch: &StepBatch, block_size: usize) {
    for (index, row) in batch.rows.iter().enumerate() {
        let written = &row.blocks[row.context / block_size..];
        for (other, others) in batch.rows.iter().enumerate().filter(|(other, _)| *other != index) {
            let shared = written.iter().find(|block| others.blocks.contains(block));
            assert!(shared.is_none(), "row {index} writes {shared:?}, which row {other} reads");
        }
    }
    let to: BTreeSet<_> = batch.copies.iter().map(|copy| copy.to).collect();
    assert_eq!(to.len(), batch.copies.len(), "two copies go to one block");
    assert!(batch.copies.iter().all(|copy| !to.contains(&copy.from)), "a copy reads what another writes");
}
