//! A prompt and what was drawn after it, with its place in the KV cache.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use crate::block_table::BlockTable;
use crate::domain::Domain;
use crate::prefix_cache::{PrefixChain, PrefixRoot};
use crate::step::StepRow;

/// The name of a sequence, unique while the scheduler knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

impl SequenceId {
    /// The id of the sibling number `index` of a request that was enqueued under this id.
    pub fn sibling(self, index: usize) -> Self {
        Self(self.0 + index as u64)
    }
}

/// A request for one sequence, or for several that share a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSequence {
    /// The first sequence's id; the ids of `copies` sequences count up from it.
    pub id: SequenceId,
    /// Token ids.
    pub prompt: Vec<u32>,
    /// What the keys and values depend on besides the tokens.
    pub root: PrefixRoot,
    /// The weights it goes through.
    pub domain: Domain,
    /// Sequences to draw after the prompt.
    pub copies: NonZeroUsize,
    /// New tokens of each after which it ends, if nobody finishes it before.
    pub max_tokens: NonZeroUsize,
    /// Whether every token of the prompt is judged by the logits before it. Nothing of such a prompt is taken from the
    /// prefix cache, which has no logits.
    pub scores_prompt: bool,
}

/// The place in the order of arrival; siblings arrive one after another. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Age(pub u64);

/// One of the sequences that a [`Sequence`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub id: SequenceId,
    pub age: Age,
}

/// A sequence as the scheduler keeps it: until its prompt is computed it stands for all siblings, then for one.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Who draws from it; never empty while the roster has it.
    pub members: Vec<Member>,
    pub domain: Domain,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    /// Its blocks; none while it waits.
    pub table: BlockTable,
    /// Full blocks that were offered to the prefix cache.
    pub recorded: usize,
    /// Tokens of the prompt that came from the prefix cache.
    pub cached: usize,
    /// Whether it lost its blocks once: what it finds in the cache then is its own work.
    pub was_preempted: bool,
    /// Whether tokens of the prompt are still to be judged.
    pub scores_prompt: bool,
    prompt: Arc<[u32]>,
    drawn: Vec<u32>,
    max_tokens: usize,
    chain: PrefixChain,
}

impl Sequence {
    pub fn new(new: NewSequence, members: Vec<Member>) -> Self {
        Self {
            members,
            domain: new.domain,
            computed: 0,
            table: BlockTable::default(),
            recorded: 0,
            cached: 0,
            was_preempted: false,
            scores_prompt: new.scores_prompt,
            prompt: new.prompt.into(),
            drawn: Vec::new(),
            max_tokens: new.max_tokens.get(),
            chain: PrefixChain::new(new.root),
        }
    }

    /// Tokens that are known.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.drawn.len()
    }

    /// Tokens that are known and not computed. One is a decode, whatever it was before.
    pub fn pending(&self) -> usize {
        self.len() - self.computed
    }

    pub fn has_all_tokens(&self) -> bool {
        self.drawn.len() >= self.max_tokens
    }

    pub fn push(&mut self, token: u32) {
        self.drawn.push(token);
    }

    /// So many of the pending tokens are in the cache now.
    pub fn advance(&mut self, count: usize) {
        self.computed += count;
        self.scores_prompt &= self.computed < self.prompt.len();
    }

    /// Pending tokens that a step has room for which takes `tokens` more, and `targets` more that are judged.
    pub fn fitting(&self, tokens: usize, targets: usize) -> usize {
        let count = self.pending().min(tokens);
        if self.targets(count).len() > targets { targets } else { count }
    }

    /// The same tokens in the same blocks, for a sibling alone.
    pub fn fork(&self, member: Member) -> Self {
        Self {
            members: vec![member],
            domain: self.domain,
            computed: self.computed,
            table: self.table.clone(),
            recorded: self.recorded,
            cached: self.cached,
            was_preempted: self.was_preempted,
            scores_prompt: self.scores_prompt,
            prompt: Arc::clone(&self.prompt),
            drawn: self.drawn.clone(),
            max_tokens: self.max_tokens,
            chain: self.chain.clone(),
        }
    }

    /// Gives the blocks back; all tokens are to be computed again.
    pub fn preempt(&mut self) {
        self.table.clear();
        self.computed = 0;
        self.recorded = 0;
        self.was_preempted = true;
    }

    /// The chain, long enough for the first `blocks` blocks, which must be full. Each is hashed once.
    pub fn chain(&mut self, blocks: usize, block_size: usize) -> &PrefixChain {
        for block in self.chain.hashes().len()..blocks {
            let tokens = self.tokens(block * block_size..(block + 1) * block_size);
            self.chain.extend(&tokens);
        }
        &self.chain
    }

    /// The chain, as long as it was needed so far: as all blocks that were looked up or recorded.
    pub fn known_chain(&self) -> &PrefixChain {
        &self.chain
    }

    /// The row of the next `count` pending tokens.
    pub fn row(&self, count: usize, blocks_for: impl Fn(usize) -> usize) -> StepRow {
        let end = self.computed + count;
        let draws = if end == self.len() { self.members.as_slice() } else { &[] };
        StepRow {
            sequence: self.members[0].id,
            domain: self.domain,
            tokens: self.tokens(self.computed..end),
            context: self.computed,
            cached: self.cached,
            blocks: self.table.ids(blocks_for(end)),
            draws: draws.iter().map(|member| member.id).collect(),
            targets: self.targets(count).to_vec(),
        }
    }

    /// The tokens of the prompt that the next `count` pending positions judge.
    fn targets(&self, count: usize) -> &[u32] {
        if !self.scores_prompt {
            return &[];
        }
        let end = (self.computed + count + 1).min(self.prompt.len());
        self.prompt.get(self.computed + 1..end).unwrap_or(&[])
    }

    fn tokens(&self, range: Range<usize>) -> Vec<u32> {
        let border = self.prompt.len();
        let prompt = &self.prompt[range.start.min(border)..range.end.min(border)];
        let drawn = &self.drawn[range.start.saturating_sub(border)..range.end.saturating_sub(border)];
        [prompt, drawn].concat()
    }
}
