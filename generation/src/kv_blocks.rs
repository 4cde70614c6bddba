//! The KV cache as sequences use it: a table gets blocks, finds known ones, and copies what it must not write.

use crate::block_pool::{BlockId, BlockLease, BlockPool, PoolStats};
use crate::limits::SchedulerLimits;
use crate::prefix_cache::{PrefixCache, PrefixUsage};
use crate::sequence::Sequence;
use crate::step::BlockCopy;

/// The pool and, when prefixes are cached, what its blocks are known for.
#[derive(Debug)]
pub(crate) struct KvBlocks {
    limits: SchedulerLimits,
    pool: BlockPool,
    prefixes: Option<PrefixCache>,
}

/// Every block is leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfBlocks;

impl KvBlocks {
    pub fn new(limits: SchedulerLimits) -> Self {
        let prefixes = limits.prefix_caching.then(PrefixCache::default);
        Self { limits, pool: BlockPool::new(limits.blocks), prefixes }
    }

    /// Gives a sequence without blocks all that its tokens need, known ones first, if at least `reserve` blocks stay
    /// available after that. Says whether it did; if not, nothing has changed.
    ///
    /// All at once, so that two prompts that fit one after the other never stop each other half way.
    pub fn admit(&mut self, sequence: &mut Sequence, reserve: usize) -> bool {
        let known = self.find_known(sequence);
        let missing = self.limits.blocks_for(sequence.len()) - known.len();
        let available = self.pool.available() - self.pool.count_idle(&known);
        if missing.saturating_add(reserve) > available {
            return false;
        }
        let is_looked_up = !sequence.was_preempted && !sequence.scores_prompt;
        if let Some(prefixes) = self.prefixes.as_mut().filter(|_| is_looked_up) {
            prefixes.count_queries(sequence.len());
        }
        self.use_known(sequence, &known);
        for _ in 0..missing {
            let Ok(lease) = self.take() else { unreachable!("the missing blocks were available") };
            sequence.table.push(lease);
        }
        true
    }

    /// Takes blocks that became known since the sequence was admitted instead of computing them once more.
    pub fn adopt(&mut self, sequence: &mut Sequence) {
        let known = self.find_known(sequence);
        self.use_known(sequence, &known);
    }

    /// Makes the place of the next token writable: a new block at a block's border, a copy where siblings share it.
    pub fn make_writable(&mut self, sequence: &mut Sequence) -> Result<Option<BlockCopy>, OutOfBlocks> {
        let slot = sequence.computed / self.limits.block_size;
        match sequence.table.get(slot) {
            Some(own) if !own.is_shared() => Ok(None),
            Some(shared) => {
                let from = shared.id();
                let lease = self.take()?;
                let to = lease.id();
                sequence.table.set(slot, lease);
                Ok(Some(BlockCopy { from, to }))
            }
            None => {
                let lease = self.take()?;
                sequence.table.set(slot, lease);
                Ok(None)
            }
        }
    }

    /// Makes the sequence's full blocks known.
    pub fn record(&mut self, sequence: &mut Sequence) {
        let Some(prefixes) = &mut self.prefixes else { return };
        let block_size = self.limits.block_size.get();
        let full = sequence.computed / block_size;
        for slot in sequence.recorded..full {
            let hash = sequence.chain(full, block_size).hashes()[slot];
            if let Some(block) =
                sequence.table.get(slot).map(BlockLease::id).filter(|id| prefixes.insert(hash, *id))
            {
                self.pool.keep(block);
            }
        }
        sequence.recorded = full;
    }

    /// Forgets what the sequence's own blocks, and others of the same tokens, are known for.
    pub fn forget(&mut self, sequence: &Sequence) {
        let Some(prefixes) = &mut self.prefixes else { return };
        for block in sequence.known_chain().hashes().iter().filter_map(|hash| prefixes.remove(hash)) {
            self.pool.let_go(block);
        }
    }

    /// Forgets what blocks are known for.
    pub fn reset_prefixes(&mut self) {
        for block in self.prefixes.as_mut().map(PrefixCache::clear).unwrap_or_default() {
            self.pool.let_go(block);
        }
    }

    pub fn pool_stats(&self) -> PoolStats {
        self.pool.stats()
    }

    pub fn prefix_usage(&self) -> PrefixUsage {
        self.prefixes.as_ref().map(PrefixCache::usage).unwrap_or_default()
    }

    /// Checks the books, and that the leases are those of `tables`.
    ///
    /// # Panics
    /// When a block is lost, or leased by nobody, or known while it is free.
    pub fn check_integrity(&self, tables: impl Iterator<Item = BlockId>) {
        self.pool.check_integrity();
        let stats = self.pool.stats();
        let mut leases = vec![0; stats.blocks];
        tables.for_each(|block| leases[block.0 as usize] += 1);
        for (block, expected) in (0..).map(BlockId).zip(leases) {
            assert_eq!(self.pool.leases(block), expected, "leases on {block:?}");
        }
        let known: Vec<_> = self.prefixes.iter().flat_map(PrefixCache::blocks).collect();
        assert_eq!(self.pool.count_idle(&known), stats.idle, "a block is idle that nobody can find");
        let leased = known.iter().filter(|block| self.pool.leases(**block) > 0).count();
        assert_eq!(leased + stats.idle, known.len(), "a block is known that may be taken for anything");
        self.prefixes.iter().for_each(PrefixCache::check_integrity);
    }

    /// Known blocks from the one that holds the first pending token on, never the last token's: its logits are
    /// needed, so it must be computed. None while the prompt is scored, which needs the logits of all.
    fn find_known(&self, sequence: &mut Sequence) -> Vec<BlockId> {
        let Some(prefixes) = self.prefixes.as_ref().filter(|_| !sequence.scores_prompt) else {
            return Vec::new();
        };
        let block_size = self.limits.block_size.get();
        let (first, most) = (sequence.computed / block_size, (sequence.len() - 1) / block_size);
        prefixes.find(sequence.chain(most, block_size).hashes().get(first..most).unwrap_or(&[]))
    }

    fn use_known(&mut self, sequence: &mut Sequence, known: &[BlockId]) {
        if known.is_empty() {
            return;
        }
        let first = sequence.computed / self.limits.block_size;
        for (slot, block) in (first..).zip(known) {
            sequence.table.set(slot, self.pool.share(*block));
        }
        let computed = (first + known.len()) * self.limits.block_size.get();
        let found = computed - sequence.computed;
        sequence.computed = computed;
        sequence.recorded = first + known.len();
        if let Some(prefixes) = self.prefixes.as_mut().filter(|_| !sequence.was_preempted) {
            prefixes.count_hits(found);
            sequence.cached += found;
        }
    }

    /// A block of one's own; what it was known for is forgotten.
    fn take(&mut self) -> Result<BlockLease, OutOfBlocks> {
        let taken = self.pool.take().ok_or(OutOfBlocks)?;
        if let Some(prefixes) = self.prefixes.as_mut().filter(|_| taken.was_kept) {
            prefixes.forget(taken.lease.id());
        }
        Ok(taken.lease)
    }
}
