//! Which blocks hold the keys and values of which tokens, so that a known prefix is not computed twice.
//!
//! Only full blocks are known, each under a hash that is chained over everything before it: equal hashes mean equal
//! tokens from the first on, and equal weights.

use std::collections::HashMap;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::block_pool::BlockId;

/// Where a chain of hashes starts: a digest of all that keys and values depend on besides the tokens, which is the
/// base model's digest and the adapter's. What has another root is never shared; an adapter that was replaced has
/// another digest, so that what it left behind is not found any more and ages out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixRoot(pub [u8; 32]);

/// SHA-256 over the hash of the block before (of the first: the root) and the block's tokens, 4 bytes each, little
/// endian.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHash([u8; 32]);

/// The hashes of a sequence's full blocks, as far as they were needed.
#[derive(Clone, Debug)]
pub struct PrefixChain {
    root: PrefixRoot,
    hashes: Vec<BlockHash>,
}

/// Blocks by the hash of what they hold.
///
/// It holds no lease: the pool's marks keep a known block's content, and who takes a marked block calls
/// [`forget`](Self::forget).
#[derive(Debug, Default)]
pub struct PrefixCache {
    blocks: HashMap<BlockHash, BlockId>,
    hashes: HashMap<BlockId, BlockHash>,
    usage: PrefixUsage,
}

/// How much the cache saved, since the scheduler was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixUsage {
    /// Tokens of prompts that were looked up.
    pub queries: u64,
    /// Those of them that were found and not computed.
    pub hits: u64,
}

impl fmt::Debug for PrefixRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "PrefixRoot({a:02x}{b:02x}{c:02x}{d:02x}..)")
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "BlockHash({a:02x}{b:02x}{c:02x}{d:02x}..)")
    }
}

impl PrefixChain {
    /// The chain of no block.
    pub fn new(root: PrefixRoot) -> Self {
        Self { root, hashes: Vec::new() }
    }

    /// The hashes, one a block, from the first block on.
    pub fn hashes(&self) -> &[BlockHash] {
        &self.hashes
    }

    /// Appends the hash of the next full block.
    pub fn extend(&mut self, tokens: &[u32]) {
        let parent = self.hashes.last().map_or(self.root.0, |hash| hash.0);
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let hash = Sha256::new().chain_update(parent).chain_update(bytes).finalize();
        self.hashes.push(BlockHash(hash.into()));
    }
}

impl PrefixCache {
    /// The blocks of `hashes` up to the first that is not known.
    pub fn find(&self, hashes: &[BlockHash]) -> Vec<BlockId> {
        hashes.iter().map_while(|hash| self.blocks.get(hash).copied()).collect()
    }

    /// Remembers that `block` holds what `hash` stands for, unless another block is known for it; says whether it
    /// did. The caller then marks the block in the pool.
    ///
    /// # Panics
    /// When the block is known for something else: it was written while its content was kept.
    pub fn insert(&mut self, hash: BlockHash, block: BlockId) -> bool {
        if self.blocks.contains_key(&hash) {
            return false;
        }
        let old = self.hashes.insert(block, hash);
        assert!(old.is_none(), "{block:?} is known as {old:?} and would become {hash:?}");
        self.blocks.insert(hash, block);
        true
    }

    /// Forgets what `block` held.
    pub fn forget(&mut self, block: BlockId) {
        if let Some(hash) = self.hashes.remove(&block) {
            self.blocks.remove(&hash);
        }
    }

    /// Forgets which block holds what `hash` stands for, and gives it.
    pub fn remove(&mut self, hash: &BlockHash) -> Option<BlockId> {
        let block = self.blocks.remove(hash)?;
        self.hashes.remove(&block);
        Some(block)
    }

    /// Forgets everything and gives the blocks, whose marks in the pool are now without meaning.
    pub fn clear(&mut self) -> Vec<BlockId> {
        self.blocks.clear();
        self.hashes.drain().map(|(block, _)| block).collect()
    }

    /// Counts tokens that were looked up.
    pub fn count_queries(&mut self, tokens: usize) {
        self.usage.queries += tokens as u64;
    }

    /// Counts tokens that were found.
    pub fn count_hits(&mut self, tokens: usize) {
        self.usage.hits += tokens as u64;
    }

    /// What was looked up and found so far.
    pub fn usage(&self) -> PrefixUsage {
        self.usage
    }

    /// The blocks that are known, in any order.
    pub fn blocks(&self) -> impl Iterator<Item = BlockId> {
        self.hashes.keys().copied()
    }

    /// Checks that hashes and blocks are known in pairs.
    ///
    /// # Panics
    /// When they are not.
    pub fn check_integrity(&self) {
        assert_eq!(self.blocks.len(), self.hashes.len(), "known hashes and known blocks");
        for (hash, block) in &self.blocks {
            assert_eq!(self.hashes.get(block), Some(hash), "{block:?} is found under {hash:?}");
        }
    }
}
