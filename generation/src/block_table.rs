//! The blocks of one sequence, in the order of its tokens.

use crate::block_pool::{BlockId, BlockLease};

/// Slot `i` leases the block of the tokens `i * block_size .. (i + 1) * block_size`.
///
/// A clone shares every block. Blocks are given back from the last to the first: of a prefix that is kept in the
/// cache, the end is then reused before the start, without which it could not be found.
#[derive(Clone, Debug, Default)]
pub struct BlockTable {
    leases: Vec<BlockLease>,
}

impl BlockTable {
    /// Slots.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there is no slot.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// The lease of a slot, if there is one.
    pub fn get(&self, slot: usize) -> Option<&BlockLease> {
        self.leases.get(slot)
    }

    /// The blocks of the first `slots` slots.
    pub fn ids(&self, slots: usize) -> Vec<BlockId> {
        self.leases[..slots].iter().map(BlockLease::id).collect()
    }

    /// Appends a slot.
    pub fn push(&mut self, lease: BlockLease) {
        self.leases.push(lease);
    }

    /// Puts `lease` into a slot, a new one when it is the next, and gives the old lease of it back.
    ///
    /// # Panics
    /// When `slot` is beyond the next.
    pub fn set(&mut self, slot: usize, lease: BlockLease) {
        match self.leases.get_mut(slot) {
            Some(old) => *old = lease,
            None => {
                assert_eq!(slot, self.leases.len(), "a table has no gaps");
                self.leases.push(lease);
            }
        }
    }

    /// Gives all blocks back.
    pub fn clear(&mut self) {
        while self.leases.pop().is_some() {}
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.clear();
    }
}
