//! Loaded adapters in host memory: a byte bound, one load for many who wait, and a pause after a failed one.
//!
//! The cache is moka's, which is eventually consistent: entries that no longer fit go when its pending tasks run, which
//! is after every load here, so it exceeds its capacity by no more than the loads in flight. Least recently used goes
//! first: an adapter that was just asked for is kept at once, where a policy by frequency would read it again and
//! again until it is popular. Weights are KiB, rounded up, because moka's are 32 bits wide.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use moka::{policy::EvictionPolicy, sync::Cache};

use crate::LoadedAdapter;

/// Most failed loads that are remembered.
pub const MAX_REMEMBERED_FAILURES: u64 = 1024;

/// Bytes in a unit of weight.
const UNIT_BYTES: u64 = 1024;

/// Loaded adapters by key; `K` must tell one state of an adapter's files from the next, so that a reload under the same
/// name is another key.
///
/// Values that are leased or aliased by a device pool live on after they went from here.
pub struct HostCache<K, E> {
    kept: Cache<K, LoadedAdapter>,
    failures: Cache<K, Arc<E>>,
    capacity_bytes: u64,
    hits: AtomicU64,
    loads: AtomicU64,
    failed_loads: AtomicU64,
}

/// A cache's figures at one moment; counts of events are since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCacheStats {
    /// Adapters kept.
    pub adapters: u64,
    /// Their bytes, each rounded up to KiB.
    pub bytes: u64,
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Answers that needed no load of their own.
    pub hits: u64,
    /// Loads, failed ones included.
    pub loads: u64,
    /// Loads that failed.
    pub failed_loads: u64,
}

impl<K, E> HostCache<K, E>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    /// An empty cache of `capacity_bytes`, rounded down to KiB. A failed load is not tried again for `retry_after`.
    /// `counts_packed`: adapters weigh what the CPU's kernels make of them too.
    pub fn new(capacity_bytes: u64, retry_after: Duration, counts_packed: bool) -> Self {
        let kept = Cache::builder()
            .max_capacity(capacity_bytes / UNIT_BYTES)
            .weigher(move |_, loaded: &LoadedAdapter| units(loaded, counts_packed))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let failures = Cache::builder()
            .max_capacity(MAX_REMEMBERED_FAILURES)
            .time_to_live(retry_after)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let count = || AtomicU64::new(0);
        Self { kept, failures, capacity_bytes, hits: count(), loads: count(), failed_loads: count() }
    }

    /// The adapter of `key` when it is kept.
    pub fn get(&self, key: &K) -> Option<LoadedAdapter> {
        let kept = self.kept.get(key)?;
        self.hits.fetch_add(1, Relaxed);
        Some(kept)
    }

    /// The adapter of `key`, loaded by `load` when it is not kept. Of callers at the same time one loads and all get
    /// its outcome. An adapter above the capacity is given out and not kept. Blocks while a load runs.
    ///
    /// # Errors
    /// What `load` said, now or less than the pause ago.
    pub fn get_or_load(
        &self,
        key: &K,
        load: impl FnOnce() -> Result<LoadedAdapter, E>,
    ) -> Result<LoadedAdapter, Arc<E>> {
        let mut loaded_here = false;
        let outcome = self.kept.try_get_with_by_ref(key, || {
            // Looked up here, where one caller is at a time: whoever waited elsewhere must not load once more.
            if let Some(failure) = self.failures.get(key) {
                return Err(failure);
            }
            loaded_here = true;
            self.loads.fetch_add(1, Relaxed);
            load().map_err(|error| {
                let error = Arc::new(error);
                self.failed_loads.fetch_add(1, Relaxed);
                self.failures.insert(key.clone(), Arc::clone(&error));
                error
            })
        });
        if loaded_here {
            self.kept.run_pending_tasks();
        } else if outcome.is_ok() {
            self.hits.fetch_add(1, Relaxed);
        }
        outcome.map_err(Arc::unwrap_or_clone)
    }

    /// Forgets `key` and whether it failed.
    pub fn forget(&self, key: &K) {
        self.kept.invalidate(key);
        self.failures.invalidate(key);
        self.kept.run_pending_tasks();
    }

    /// Ends the pause after a failed load of `key`, if there is one.
    pub fn forget_failure(&self, key: &K) {
        self.failures.invalidate(key);
    }

    /// The figures at this moment.
    pub fn stats(&self) -> HostCacheStats {
        HostCacheStats {
            adapters: self.kept.entry_count(),
            bytes: self.kept.weighted_size() * UNIT_BYTES,
            capacity_bytes: self.capacity_bytes,
            hits: self.hits.load(Relaxed),
            loads: self.loads.load(Relaxed),
            failed_loads: self.failed_loads.load(Relaxed),
        }
    }
}

/// An adapter's weight: at least one unit, at most what 32 bits hold (4 TiB).
fn units(loaded: &LoadedAdapter, counts_packed: bool) -> u32 {
    let packed = if counts_packed { loaded.extent.layout().most_packed_bytes() } else { 0 };
    let units = ((loaded.extent.bytes() + packed) as u64).div_ceil(UNIT_BYTES).max(1);
    u32::try_from(units).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use polylora_kernels::extent::{ExtentLayout, HostExtent, SiteId, SiteShape};
    use std::{
        sync::{Barrier, atomic::AtomicUsize},
        thread,
    };

    const NEVER: Duration = Duration::from_secs(3600);
    type TestCache = HostCache<u8, String>;

    fn adapter(key: u8, kib: usize) -> LoadedAdapter {
        let (in_width, out_width) = (kib * 256, 0);
        let shape =
            SiteShape { site: SiteId(0), in_width, out_width, rank: 1, has_gain: false, has_bias: false };
        let extent = HostExtent::zeroed(ExtentLayout::new(vec![shape], |site| site.0));
        LoadedAdapter { digest: Digest([key; 32]), extent: Arc::new(extent) }
    }

    fn get(cache: &TestCache, key: u8, kib: usize) -> LoadedAdapter {
        cache.get_or_load(&key, || Ok(adapter(key, kib))).expect("it loads")
    }

    /// 32 threads ask at once; the load waits until all have started.
    fn ask_from_32(
        cache: &TestCache,
        loads: &AtomicUsize,
        fails: bool,
    ) -> Vec<Result<LoadedAdapter, Arc<String>>> {
        let start = Barrier::new(32);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..32)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        cache.get_or_load(&7, || {
                            loads.fetch_add(1, Relaxed);
                            if fails { Err("broken".to_owned()) } else { Ok(adapter(7, 4)) }
                        })
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().expect("no thread panics")).collect()
        })
    }

    #[test]
    fn many_who_ask_at_once_cause_one_load_and_share_it() {
        let (cache, loads) = (TestCache::new(1 << 20, NEVER, false), AtomicUsize::new(0));
        let answers = ask_from_32(&cache, &loads, false);
        let first = answers[0].as_ref().expect("it loads");
        for answer in &answers {
            assert!(Arc::ptr_eq(&answer.as_ref().expect("it loads").extent, &first.extent));
        }
        assert_eq!(loads.into_inner(), 1);
        let stats = cache.stats();
        assert_eq!((stats.adapters, stats.bytes, stats.hits, stats.loads), (1, 4096, 31, 1));
    }

    #[test]
    fn a_failing_load_answers_all_who_wait_with_one_error() {
        let (cache, loads) = (TestCache::new(1 << 20, NEVER, false), AtomicUsize::new(0));
        let answers = ask_from_32(&cache, &loads, true);
        let first = answers[0].as_ref().expect_err("it fails");
        assert!(answers.iter().all(|a| a.as_ref().is_err_and(|e| Arc::ptr_eq(e, first) && **e == "broken")));
        assert_eq!(loads.into_inner(), 1);
    }

    #[test]
    fn a_failure_is_remembered_for_the_pause_and_then_tried_again() {
        for (pause, tried_again) in [(NEVER, false), (Duration::ZERO, true)] {
            let cache = TestCache::new(1 << 20, pause, false);
            cache.get_or_load(&1, || Err("first".to_owned())).expect_err("it fails");
            let again = cache.get_or_load(&1, || Err("second".to_owned())).expect_err("it fails");
            assert_eq!(*again == "second", tried_again);
            assert_eq!(cache.get_or_load(&1, || Ok(adapter(1, 1))).is_ok(), tried_again);
            assert!(cache.get_or_load(&2, || Ok(adapter(2, 1))).is_ok(), "others are not held up");
            cache.forget(&1);
            assert!(cache.get_or_load(&1, || Ok(adapter(1, 1))).is_ok(), "forgetting ends the pause");
        }
    }

    #[test]
    fn the_capacity_holds_and_the_least_recently_used_goes_first() {
        let cache = TestCache::new(10 * 1024, NEVER, false);
        for key in [1, 2, 3, 1, 4] {
            get(&cache, key, 3);
        }
        let stats = cache.stats();
        assert_eq!((stats.adapters, stats.bytes, stats.capacity_bytes), (3, 9 * 1024, 10 * 1024));
        let kept: Vec<u8> = (1..=4).filter(|key| cache.kept.contains_key(key)).collect();
        assert_eq!(kept, [1, 3, 4]);
        assert_eq!(get(&cache, 2, 3).digest, Digest([2; 32]), "what went is loaded again");
        assert_eq!(cache.stats().loads, 5);
    }

    #[test]
    fn an_adapter_above_the_capacity_is_given_out_and_not_kept() {
        let cache = TestCache::new(8 * 1024, NEVER, false);
        get(&cache, 1, 4);
        assert_eq!(get(&cache, 2, 9).extent.bytes(), 9 * 1024);
        let stats = cache.stats();
        assert_eq!((stats.adapters, stats.bytes), (1, 4096), "and pushes nobody out");
        assert!(cache.kept.contains_key(&1));
    }

    #[test]
    fn a_load_that_panics_leaves_the_next_one_free_to_load() {
        let cache = TestCache::new(1 << 20, NEVER, false);
        let broken = std::panic::AssertUnwindSafe(|| cache.get_or_load(&1, || panic!("no answer")));
        assert!(std::panic::catch_unwind(broken).is_err());
        assert_eq!(get(&cache, 1, 1).digest, Digest([1; 32]));
    }
}
