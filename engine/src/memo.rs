//! The embedding memo: what a row became is kept, and rows that are the same at the same time are computed once.
//!
//! A key is a digest over everything that an embedding depends on, so that an adapter that changes under its name is
//! another key. Only embeddings are kept: a row that failed, or whose values were not finite, is computed again.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use moka::sync::Cache;
use parking_lot::Mutex;
use polylora_adapters::{Digest, DigestBuilder};
use tokio::sync::watch;

use crate::{EmbedError, RowOutput};

/// First field of every key: another layout of fields gets another string.
const KEY_DOMAIN: &str = "polylora embedding memo, layout 2";
/// Bytes that the cache holds for an entry beside its values: key, counts, places in its lists.
const ENTRY_BYTES: usize = 192;

/// An embedding that several may hold.
pub(crate) type Embedding = Arc<[f32]>;

/// What a row that is computed now becomes; `None` as long as that is open.
pub(crate) type Awaited = watch::Receiver<Option<Result<Embedding, EmbedError>>>;

/// Embeddings by key, within a bound of bytes.
pub(crate) struct Memo {
    cache: Cache<Digest, Embedding>,
    pending: Arc<Pending>,
    /// What all keys begin with: the base model, its device's dtype, pooling and normalisation.
    prefix: DigestBuilder,
}

type Pending = Mutex<HashMap<Digest, Awaited>>;

/// What all rows of an engine share and an embedding depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoBase<'a> {
    /// Digest of the base model: weights, config.
    pub(crate) digest: &'a str,
    /// What is computed in.
    pub(crate) dtype: &'a str,
    /// Pooling and normalisation.
    pub(crate) head: &'a str,
    /// Width of an embedding.
    pub(crate) dimensions: usize,
}

/// What the memo knows of a row.
pub(crate) enum Known {
    /// Its embedding.
    Embedding(Embedding),
    /// Somebody computes it. The channel ends without a result when he has left.
    Awaited(Awaited),
    /// Nothing: the caller computes it and says so.
    Missing(Claim),
}

/// The right and duty to compute a row; goes with the row to the device. Dropped without an outcome, it lets others compute
/// theirs.
pub(crate) struct Claim {
    key: Digest,
    pending: Arc<Pending>,
    cache: Cache<Digest, Embedding>,
    result: watch::Sender<Option<Result<Embedding, EmbedError>>>,
}

impl Memo {
    /// An empty memo of at most `bytes`; `None` when that is zero.
    pub(crate) fn new(bytes: u64, base: MemoBase<'_>) -> Option<Self> {
        let weight = |_: &Digest, embedding: &Embedding| {
            u32::try_from(ENTRY_BYTES + size_of_val::<[f32]>(embedding)).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().max_capacity(bytes).weigher(weight).build();
        let prefix = DigestBuilder::new(KEY_DOMAIN)
            .field(base.digest.as_bytes())
            .field(base.dtype.as_bytes())
            .field(base.head.as_bytes())
            .number(base.dimensions as u64);
        (bytes > 0).then(|| Self { cache, pending: Arc::default(), prefix })
    }

    /// The key of a row of `ids` that becomes `output` through the adapter with that digest.
    pub(crate) fn key(&self, adapter: Option<Digest>, output: RowOutput, ids: &[u32]) -> Digest {
        let adapter = adapter.as_ref().map_or(&[][..], |digest| &digest.0);
        let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let output = match output {
            RowOutput::Embedding => 0,
            RowOutput::Normalized => 1,
            RowOutput::Raw => 2,
            RowOutput::Tokens => 3,
        };
        self.prefix.clone().field(adapter).number(output).field(&ids).finish()
    }

    /// Looks `key` up, and claims it when nobody knows it.
    pub(crate) fn look_up(&self, key: Digest) -> Known {
        if let Some(embedding) = self.cache.get(&key) {
            return Known::Embedding(embedding);
        }
        let mut pending = self.pending.lock();
        if let Some(result) = pending.get(&key) {
            return Known::Awaited(result.clone());
        }
        // Whoever computed it may have kept it since the first look, before he left the list.
        if let Some(embedding) = self.cache.get(&key) {
            return Known::Embedding(embedding);
        }
        let (result, awaited) = watch::channel(None);
        pending.insert(key, awaited);
        Known::Missing(Claim { key, pending: Arc::clone(&self.pending), cache: self.cache.clone(), result })
    }

    /// Bytes of what is kept.
    pub(crate) fn bytes(&self) -> usize {
        self.cache.run_pending_tasks();
        usize::try_from(self.cache.weighted_size()).unwrap_or(usize::MAX)
    }
}

impl Claim {
    /// Keeps the row's embedding and hands it to those who wait for it.
    pub(crate) fn keep(self, embedding: &[f32]) {
        let embedding: Embedding = embedding.into();
        self.cache.insert(self.key, Arc::clone(&embedding));
        self.result.send_replace(Some(Ok(embedding)));
    }

    /// Hands the row's failure to those who wait for it now; it is not kept.
    pub(crate) fn fail(self, error: EmbedError) {
        self.result.send_replace(Some(Err(error)));
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.pending.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMBEDDING: RowOutput = RowOutput::Embedding;

    fn base() -> MemoBase<'static> {
        MemoBase { digest: "base", dtype: "f32", head: "mean", dimensions: 4 }
    }

    fn memo(bytes: u64) -> Memo {
        Memo::new(bytes, base()).unwrap()
    }

    fn claim(memo: &Memo, key: Digest) -> Claim {
        match memo.look_up(key) {
            Known::Missing(claim) => claim,
            Known::Embedding(_) | Known::Awaited(_) => panic!("it is known"),
        }
    }

    #[test]
    fn everything_that_an_embedding_depends_on_is_in_its_key() {
        let keys = |memo: &Memo| {
            let law = Some(Digest([1; 32]));
            let outputs = [RowOutput::Normalized, RowOutput::Raw, RowOutput::Tokens];
            let mut keys = outputs.map(|output| memo.key(None, output, &[1, 2])).to_vec();
            keys.push(memo.key(law, EMBEDDING, &[1, 2]));
            keys.extend([&[1, 2][..], &[1], &[2, 1]].map(|ids| memo.key(None, EMBEDDING, ids)));
            keys
        };
        let others = [
            MemoBase { digest: "other", ..base() },
            MemoBase { dtype: "bf16", ..base() },
            MemoBase { head: "cls", ..base() },
            MemoBase { dimensions: 5, ..base() },
        ];
        let mut all: Vec<Digest> = keys(&memo(1));
        all.extend(others.iter().flat_map(|other| keys(&Memo::new(1, *other).unwrap())));
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), 35);
        assert!(Memo::new(0, base()).is_none());
    }

    #[test]
    fn a_row_is_claimed_once_and_found_when_it_was_kept() {
        let memo = memo(1 << 20);
        let key = memo.key(None, EMBEDDING, &[1]);
        let first = claim(&memo, key);
        let Known::Awaited(awaited) = memo.look_up(key) else { panic!("it was claimed") };
        first.keep(&[1.0, 2.0]);
        assert_eq!(*awaited.borrow(), Some(Ok([1.0, 2.0].into())));
        assert!(matches!(memo.look_up(key), Known::Embedding(kept) if *kept == [1.0, 2.0]));
        assert!(memo.pending.lock().is_empty());
    }

    #[test]
    fn a_claim_that_is_given_up_can_be_claimed_again() {
        let memo = memo(1 << 20);
        let key = memo.key(None, EMBEDDING, &[1]);
        let first = claim(&memo, key);
        let Known::Awaited(awaited) = memo.look_up(key) else { panic!("it was claimed") };
        drop(first);
        assert!(awaited.has_changed().is_err(), "whoever waits is told");
        claim(&memo, key).keep(&[1.0]);
        assert_eq!(memo.bytes(), ENTRY_BYTES + 4);
    }

    #[test]
    fn a_failure_is_told_to_those_who_wait_and_to_nobody_later() {
        let memo = memo(1 << 20);
        let key = memo.key(None, EMBEDDING, &[1]);
        let first = claim(&memo, key);
        let Known::Awaited(awaited) = memo.look_up(key) else { panic!("it was claimed") };
        first.fail(EmbedError::NoInputs);
        assert_eq!(*awaited.borrow(), Some(Err(EmbedError::NoInputs)));
        claim(&memo, key).keep(&[1.0]);
    }

    #[test]
    fn bytes_stay_within_the_bound() {
        let memo = memo(10 * 1024);
        for id in 0..1000 {
            claim(&memo, memo.key(None, EMBEDDING, &[id])).keep(&[0.5; 100]);
        }
        assert!(memo.bytes() <= 10 * 1024);
    }
}
