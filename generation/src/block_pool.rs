//! Which blocks of the KV cache are leased, which are free, and which are idle but still worth finding again.
//!
//! The pool hands out numbers; the memory that they stand for is the device's. Blocks of one size that any sequence
//! can take leave no holes (PagedAttention, arXiv 2309.06180).

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The number of a block in the KV cache, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// Blocks of one KV cache.
///
/// A block is leased, free, or idle. It becomes idle when its last lease is given back while it is marked by
/// [`keep`](Self::keep): its content stays until the pool has nothing free. Clones are handles to one pool.
#[derive(Clone, Debug)]
pub struct BlockPool {
    books: Arc<Mutex<Books>>,
}

/// The right to read a block, and to write it while nobody else holds it. Clones share the block; the last one to be
/// dropped gives it back.
#[derive(Debug)]
pub struct BlockLease {
    books: Arc<Mutex<Books>>,
    id: BlockId,
}

/// A block whose content is nobody's any more.
#[derive(Debug)]
pub struct TakenBlock {
    /// The only lease on it.
    pub lease: BlockLease,
    /// Whether it was idle: who remembers its old content must forget it.
    pub was_kept: bool,
}

/// How many blocks are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Blocks in all.
    pub blocks: usize,
    /// Blocks with at least one lease.
    pub leased: usize,
    /// Blocks without a lease whose content is kept.
    pub idle: usize,
    /// Blocks without a lease and without content.
    pub free: usize,
}

impl BlockPool {
    /// A pool of `blocks` free blocks.
    pub fn new(blocks: NonZeroU32) -> Self {
        let entry = Entry { state: State::Free, kept: false };
        let books = Books {
            entries: vec![entry; blocks.get() as usize],
            free: (0..blocks.get()).rev().map(BlockId).collect(),
            idle: BTreeMap::new(),
            releases: 0,
        };
        Self { books: Arc::new(Mutex::new(books)) }
    }

    /// Leases a free block, or else the block that has been idle longest; `None` when all are leased.
    pub fn take(&self) -> Option<TakenBlock> {
        let (id, was_kept) = lock(&self.books).take()?;
        Some(TakenBlock { lease: BlockLease { books: Arc::clone(&self.books), id }, was_kept })
    }

    /// One more lease on a block that is leased or idle.
    ///
    /// # Panics
    /// When the block is free: it has no content to share.
    pub fn share(&self, id: BlockId) -> BlockLease {
        lock(&self.books).add_lease(id);
        BlockLease { books: Arc::clone(&self.books), id }
    }

    /// Marks a leased block, so that it becomes idle instead of free with its last lease.
    ///
    /// # Panics
    /// When the block is not leased.
    pub fn keep(&self, id: BlockId) {
        let mut books = lock(&self.books);
        let entry = books.entry(id);
        assert!(matches!(entry.state, State::Leased(_)), "{id:?} is kept without a lease");
        entry.kept = true;
    }

    /// Takes the mark away; an idle block becomes free.
    pub fn let_go(&self, id: BlockId) {
        lock(&self.books).let_go(id);
    }

    /// Leases on a block.
    pub fn leases(&self, id: BlockId) -> usize {
        match lock(&self.books).entry(id).state {
            State::Leased(leases) => leases.get(),
            State::Free | State::Idle { .. } => 0,
        }
    }

    /// How many of `ids` are idle.
    pub fn count_idle(&self, ids: &[BlockId]) -> usize {
        let mut books = lock(&self.books);
        ids.iter().filter(|id| matches!(books.entry(**id).state, State::Idle { .. })).count()
    }

    /// Blocks that [`take`](Self::take) can lease before it says `None`.
    pub fn available(&self) -> usize {
        let books = lock(&self.books);
        books.free.len() + books.idle.len()
    }

    /// The figures at this moment.
    pub fn stats(&self) -> PoolStats {
        let books = lock(&self.books);
        let (blocks, free, idle) = (books.entries.len(), books.free.len(), books.idle.len());
        PoolStats { blocks, leased: blocks - free - idle, idle, free }
    }

    /// Checks that every block is in exactly one state and one list. O(n log n).
    ///
    /// # Panics
    /// When the books disagree.
    pub fn check_integrity(&self) {
        lock(&self.books).check_integrity();
    }
}

impl BlockLease {
    /// The block.
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// Whether there are other leases on the block, so that it must not be written.
    pub fn is_shared(&self) -> bool {
        matches!(lock(&self.books).entry(self.id).state, State::Leased(leases) if leases.get() > 1)
    }
}

impl Clone for BlockLease {
    fn clone(&self) -> Self {
        lock(&self.books).add_lease(self.id);
        Self { books: Arc::clone(&self.books), id: self.id }
    }
}

impl Drop for BlockLease {
    fn drop(&mut self) {
        lock(&self.books).give_back(self.id);
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Free,
    Idle { since: u64 },
    Leased(NonZeroUsize),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    kept: bool,
}

#[derive(Debug)]
struct Books {
    entries: Vec<Entry>,
    free: Vec<BlockId>,
    /// By the moment of giving back, counted in releases: the first is the one to reuse.
    idle: BTreeMap<u64, BlockId>,
    releases: u64,
}

impl Books {
    fn entry(&mut self, id: BlockId) -> &mut Entry {
        &mut self.entries[id.0 as usize]
    }

    fn take(&mut self) -> Option<(BlockId, bool)> {
        let free = self.free.pop().map(|id| (id, false));
        let (id, was_kept) = free.or_else(|| self.idle.pop_first().map(|(_, id)| (id, true)))?;
        *self.entry(id) = Entry { state: State::Leased(NonZeroUsize::MIN), kept: false };
        Some((id, was_kept))
    }

    fn add_lease(&mut self, id: BlockId) {
        let leases = match self.entry(id).state {
            State::Leased(leases) => leases.saturating_add(1),
            State::Idle { since } => {
                self.idle.remove(&since);
                NonZeroUsize::MIN
            }
            State::Free => panic!("{id:?} is free and cannot be shared"),
        };
        self.entry(id).state = State::Leased(leases);
    }

    fn give_back(&mut self, id: BlockId) {
        let Entry { state: State::Leased(leases), kept } = *self.entry(id) else {
            // A lease exists, so this is out of reach; a panic here could be one inside another.
            return;
        };
        self.entry(id).state = match NonZeroUsize::new(leases.get() - 1) {
            Some(left) => State::Leased(left),
            None if kept => {
                self.releases += 1;
                self.idle.insert(self.releases, id);
                State::Idle { since: self.releases }
            }
            None => {
                self.free.push(id);
                State::Free
            }
        };
    }

    fn let_go(&mut self, id: BlockId) {
        let entry = self.entry(id);
        entry.kept = false;
        if let State::Idle { since } = entry.state {
            entry.state = State::Free;
            self.idle.remove(&since);
            self.free.push(id);
        }
    }

    fn check_integrity(&self) {
        let count = |is: fn(&Entry) -> bool| self.entries.iter().filter(|entry| is(entry)).count();
        assert_eq!(count(|entry| matches!(entry.state, State::Free)), self.free.len(), "free blocks");
        assert_eq!(count(|entry| matches!(entry.state, State::Idle { .. })), self.idle.len(), "idle blocks");
        for id in &self.free {
            let entry = self.entries[id.0 as usize];
            assert!(
                matches!(entry.state, State::Free) && !entry.kept,
                "{id:?} is in the free list: {entry:?}"
            );
        }
        for (at, id) in &self.idle {
            let entry = self.entries[id.0 as usize];
            let is_idle = matches!(entry.state, State::Idle { since } if since == *at);
            assert!(is_idle && entry.kept, "{id:?} is in the idle list: {entry:?}");
        }
        let mut listed: Vec<_> = self.free.iter().chain(self.idle.values()).collect();
        listed.sort_unstable();
        listed.dedup();
        assert_eq!(listed.len(), self.free.len() + self.idle.len(), "a block is listed twice");
    }
}

/// Nothing in here leaves the books half written, so a poisoned lock is as good as any.
fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}
