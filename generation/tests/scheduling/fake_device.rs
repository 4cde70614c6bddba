//! A device whose keys and values are hashes: a slot's content depends on all that attention would read.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use polylora_generation::{
    AdapterKey, BlockId, Domain, DrawnToken, PrefixRoot, SequenceId, StepBatch, StepOutcome, StepRow,
};

/// Tokens are drawn from this many.
pub const VOCABULARY: u64 = 3;

/// Domain 0 is the base.
pub fn domain(number: u8) -> Domain {
    match number {
        0 => Domain::Base,
        n => Domain::Adapter(AdapterKey([n; 32])),
    }
}

pub fn root(domain: Domain) -> PrefixRoot {
    match domain {
        Domain::Base => PrefixRoot([0; 32]),
        Domain::Adapter(AdapterKey(digest)) => PrefixRoot(digest),
    }
}

pub struct FakeDevice {
    block_size: usize,
    slots: Vec<Option<u64>>,
    /// Distinct adapters that it has room for in one step.
    pub room: usize,
    /// A domain that has room only where no other adapter is.
    pub heavy: Option<Domain>,
}

impl FakeDevice {
    pub fn new(blocks: usize, block_size: usize) -> Self {
        Self { block_size, slots: vec![None; blocks * block_size], room: usize::MAX, heavy: None }
    }

    /// Nothing was ever written.
    pub fn lose(&mut self) {
        self.slots.fill(None);
    }

    /// Computes a batch; adapters beyond its room are deferred in the order of the rows.
    pub fn run(&mut self, batch: &StepBatch) -> StepOutcome {
        for copy in &batch.copies {
            for offset in 0..self.block_size {
                let (from, to) = (self.slot(copy.from, offset), self.slot(copy.to, offset));
                self.slots[to] = self.slots[from];
            }
        }
        let mut outcome = StepOutcome::default();
        let mut placed: BTreeSet<Domain> = BTreeSet::new();
        for row in &batch.rows {
            let is_placed = row.domain == Domain::Base || placed.contains(&row.domain);
            if !is_placed && !self.has_room(&placed, row.domain) {
                outcome.deferred.push(row.sequence);
                continue;
            }
            placed.extend(row.domain.adapter().map(Domain::Adapter));
            let last = self.compute(row);
            let draw = |id: &SequenceId| DrawnToken { sequence: *id, token: draw(last, *id) };
            outcome.drawn.extend(row.draws.iter().map(draw));
        }
        outcome
    }

    fn has_room(&self, placed: &BTreeSet<Domain>, domain: Domain) -> bool {
        let heavy_alone = self.heavy.is_none_or(|heavy| heavy != domain && !placed.contains(&heavy));
        placed.is_empty() || (placed.len() < self.room && heavy_alone)
    }

    /// Writes the row's slots and gives the content of the last.
    fn compute(&mut self, row: &StepRow) -> u64 {
        let slot =
            |position: usize| self.slot(row.blocks[position / self.block_size], position % self.block_size);
        let places: Vec<usize> = (0..row.context + row.tokens.len()).map(slot).collect();
        let read = |place: &usize| self.slots[*place].expect("a row reads a slot that nobody wrote");
        let mut contents: Vec<u64> = places[..row.context].iter().map(read).collect();
        for (place, token) in places[row.context..].iter().zip(&row.tokens) {
            let content = attend(row.domain, &contents, *token);
            contents.push(content);
            self.slots[*place] = Some(content);
        }
        *contents.last().unwrap()
    }

    fn slot(&self, block: BlockId, offset: usize) -> usize {
        block.0 as usize * self.block_size + offset
    }
}

/// What a sequence draws when there is nobody else: the oracle of every history.
pub fn alone(domain: Domain, id: SequenceId, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut contents = Vec::new();
    let mut tokens = prompt.to_vec();
    while tokens.len() < prompt.len() + count {
        for token in &tokens[contents.len()..] {
            contents.push(attend(domain, &contents, *token));
        }
        tokens.push(draw(*contents.last().unwrap(), id));
    }
    tokens.split_off(prompt.len())
}

fn attend(domain: Domain, before: &[u64], token: u32) -> u64 {
    hash((domain, before, token))
}

fn draw(content: u64, id: SequenceId) -> u32 {
    (hash((content, id)) % VOCABULARY) as u32
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
