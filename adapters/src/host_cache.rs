//! Loaded adapters in host memory: one load for many who wait, and pauses after failed ones.
//!
//! Who is kept and who goes is `cache_books.rs`, who failed is `load_failures.rs`; the locks, the clock and the figures
//! are here. No lock is held while an adapter is read or freed. Weights are KiB, rounded up.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use crate::{
    LoadedAdapter, OwnChat,
    cache_books::{BookLimits, CacheBooks, PinError},
    load_failures::{Backoff, LoadFailures},
    tier_figures::{FiguresByKey, TierFigures},
};

/// Bytes in a unit of weight.
const UNIT_BYTES: u64 = 1024;

/// Bounds and pauses of a [`HostCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostCacheLimits {
    /// Bytes in all, rounded down to KiB.
    pub bytes: u64,
    /// Adapters in all; `None` for as many as the bytes allow.
    pub adapters: Option<usize>,
    /// Whether adapters weigh what the CPU's kernels make of them, too.
    pub counts_packed: bool,
    /// How long a load that failed once is not tried again. Each further failure in a row doubles it.
    pub first_pause: Duration,
    /// The longest that it gets.
    pub longest_pause: Duration,
}

/// Loaded adapters by key; `K` must tell one state of an adapter's files from the next, so that a reload under the same
/// name is another key.
///
/// Least recently used goes first, of those that are not pinned: an adapter that was just asked for is kept at once.
/// Values that are leased or aliased by a device pool live on after they went from here.
pub struct HostCache<K, E> {
    counts_packed: bool,
    capacity_bytes: u64,
    state: Mutex<State<K, E>>,
}

/// A cache's figures at one moment; counts of events are since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCacheStats {
    /// Adapters kept.
    pub adapters: u64,
    /// Adapters kept that are pinned.
    pub pinned: u64,
    /// Bytes of the adapters kept, each rounded up to KiB.
    pub bytes: u64,
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Answers that needed no load of their own.
    pub hits: u64,
    /// Loads that began, failed ones included.
    pub loads: u64,
    /// Loads that failed.
    pub failed_loads: u64,
    /// Time that loads took, failed ones included, in microseconds.
    pub load_micros: u64,
    /// Adapters that went to make room.
    pub evictions: u64,
}

impl<K: Hash + Eq + Clone, E> HostCache<K, E> {
    /// An empty cache.
    pub fn new(limits: HostCacheLimits) -> Self {
        let HostCacheLimits { bytes, adapters, counts_packed, first_pause, longest_pause } = limits;
        let state = State {
            books: CacheBooks::new(BookLimits { units: bytes / UNIT_BYTES, values: adapters }),
            failures: LoadFailures::new(Backoff { first: first_pause, longest: longest_pause }),
            loading: HashMap::new(),
            figures: FiguresByKey::default(),
            hits: 0,
            loads: 0,
            failed_loads: 0,
            load_time: Duration::ZERO,
        };
        Self { counts_packed, capacity_bytes: bytes, state: Mutex::new(state) }
    }

    /// The adapter of `key` when it is kept. Waits for no load.
    pub fn get(&self, key: &K) -> Option<LoadedAdapter> {
        self.state.lock().hit(key)
    }

    /// The keys of all that are kept, in no order.
    pub fn keys(&self) -> Vec<K> {
        self.state.lock().books.keys().cloned().collect()
    }

    /// Whether the adapter of `key` is kept. Counts neither as use nor as hit.
    pub fn contains(&self, key: &K) -> bool {
        self.state.lock().books.contains(key)
    }

    /// The adapter of `key`, loaded by `load` when it is not kept. Of callers at the same time one loads and all get
    /// its outcome; when its load panics, one of the others loads. An adapter that does not fit beside the pinned ones
    /// is given out and not kept. Blocks while a load runs; `load` must not ask for `key` itself.
    ///
    /// # Errors
    /// What `load` said, now or before a pause that still lasts.
    pub fn get_or_load(
        &self,
        key: &K,
        load: impl FnOnce() -> Result<LoadedAdapter, E>,
    ) -> Result<LoadedAdapter, Arc<E>> {
        loop {
            match self.next_move(key) {
                Move::Answer(answer) => return answer,
                Move::Await(flight) => {
                    if let Some(outcome) = flight.outcome() {
                        if outcome.is_ok() {
                            self.state.lock().count_hit(key);
                        }
                        return outcome;
                    }
                }
                Move::Load(flight) => {
                    let mut landing =
                        Landing { cache: self, key, flight, began: Instant::now(), outcome: None };
                    let outcome = load().map_err(Arc::new);
                    landing.outcome = Some(outcome.clone());
                    return outcome;
                }
            }
        }
    }

    /// Keeps an adapter that was made elsewhere, as a load of `key` would.
    pub fn insert(&self, key: &K, adapter: LoadedAdapter) {
        let units = units(&adapter, self.counts_packed);
        let mut state = self.state.lock();
        state.failures.forget(key);
        let gone = state.books.insert(key.clone(), adapter, units);
        state.count_evicted();
        drop(state);
        drop(gone);
    }

    /// Whether a load of `key` runs that its next caller would wait for.
    pub fn is_loading(&self, key: &K) -> bool {
        self.state.lock().loading.contains_key(key)
    }

    /// Pins `key`, loaded or not, so that it is not evicted, or unpins it. Pinned adapters count, and are kept above
    /// the capacity if need be; others then are given out and not kept.
    ///
    /// # Errors
    /// [`PinError::TooMany`]; unpinning never fails.
    pub fn set_pinned(&self, key: &K, pinned: bool) -> Result<(), PinError> {
        let mut state = self.state.lock();
        if pinned {
            return state.books.pin(key);
        }
        let gone = state.books.unpin(key);
        state.count_evicted();
        drop(state);
        drop(gone);
        Ok(())
    }

    /// Forgets `key` and whether it failed; a pin stays. Who waits for a load that runs gets what it reads, and it is
    /// not kept: the next caller loads anew.
    pub fn forget(&self, key: &K) {
        let mut state = self.state.lock();
        state.failures.forget(key);
        state.loading.remove(key);
        let gone = state.books.remove(key);
        drop(state);
        drop(gone);
    }

    /// Ends the pause after failed loads of `key`, if there is one.
    pub fn forget_failure(&self, key: &K) {
        self.state.lock().failures.forget(key);
    }

    /// The figures at this moment.
    pub fn stats(&self) -> HostCacheStats {
        let state = self.state.lock();
        HostCacheStats {
            adapters: state.books.len() as u64,
            pinned: state.books.pinned() as u64,
            bytes: state.books.units() * UNIT_BYTES,
            capacity_bytes: self.capacity_bytes,
            hits: state.hits,
            loads: state.loads,
            failed_loads: state.failed_loads,
            load_micros: u64::try_from(state.load_time.as_micros()).unwrap_or(u64::MAX),
            evictions: state.books.evictions(),
        }
    }

    /// One adapter's figures.
    pub fn figures_of(&self, key: &K) -> TierFigures {
        self.state.lock().figures.of(key)
    }

    /// Forgets the figures of single adapters, of all others.
    pub fn keep_figures_of(&self, is_kept: impl Fn(&K) -> bool) {
        self.state.lock().figures.retain(is_kept);
    }

    /// What a caller of [`HostCache::get_or_load`] does next. Decided under one lock, so that one of many loads.
    fn next_move(&self, key: &K) -> Move<E> {
        let mut state = self.state.lock();
        if let Some(kept) = state.hit(key) {
            return Move::Answer(Ok(kept));
        }
        if let Some(flight) = state.loading.get(key) {
            return Move::Await(Arc::clone(flight));
        }
        if let Some(error) = state.failures.pausing(key, Instant::now()) {
            return Move::Answer(Err(error));
        }
        let flight = Arc::new(Flight { stage: Mutex::new(Stage::Flying), landed: Condvar::new() });
        state.loading.insert(key.clone(), Arc::clone(&flight));
        state.loads += 1;
        Move::Load(flight)
    }
}

/// What the lock guards.
struct State<K, E> {
    books: CacheBooks<K, LoadedAdapter>,
    failures: LoadFailures<K, E>,
    loading: HashMap<K, Arc<Flight<E>>>,
    figures: FiguresByKey<K>,
    hits: u64,
    loads: u64,
    failed_loads: u64,
    load_time: Duration,
}

impl<K: Hash + Eq + Clone, E> State<K, E> {
    fn hit(&mut self, key: &K) -> Option<LoadedAdapter> {
        let kept = self.books.get(key)?.clone();
        self.count_hit(key);
        Some(kept)
    }

    fn count_hit(&mut self, key: &K) {
        self.hits += 1;
        self.figures.hit(key);
    }

    fn count_evicted(&mut self) {
        for key in self.books.take_evicted() {
            self.figures.evicted(&key);
        }
    }
}

/// What a load came to.
type Outcome<E> = Result<LoadedAdapter, Arc<E>>;

/// See [`HostCache::next_move`].
enum Move<E> {
    Answer(Outcome<E>),
    Await(Arc<Flight<E>>),
    Load(Arc<Flight<E>>),
}

/// One load that runs, and those who wait for it.
struct Flight<E> {
    stage: Mutex<Stage<E>>,
    landed: Condvar,
}

enum Stage<E> {
    Flying,
    Landed(Outcome<E>),
    /// The load panicked.
    Lost,
}

impl<E> Flight<E> {
    /// Waits for the outcome; `None` when there will be none.
    fn outcome(&self) -> Option<Outcome<E>> {
        let mut stage = self.stage.lock();
        self.landed.wait_while(&mut stage, |stage| matches!(stage, Stage::Flying));
        match &*stage {
            Stage::Landed(outcome) => Some(outcome.clone()),
            Stage::Flying | Stage::Lost => None,
        }
    }
}

/// Ends a flight when it is dropped, also by a panic: the books first, so that nobody loads what just landed.
struct Landing<'a, K: Hash + Eq + Clone, E> {
    cache: &'a HostCache<K, E>,
    key: &'a K,
    flight: Arc<Flight<E>>,
    began: Instant,
    outcome: Option<Outcome<E>>,
}

impl<K: Hash + Eq + Clone, E> Drop for Landing<'_, K, E> {
    fn drop(&mut self) {
        let (now, outcome) = (Instant::now(), self.outcome.take());
        let mut gone = vec![];
        let mut state = self.cache.state.lock();
        let took = now - self.began;
        state.load_time += took;
        state.figures.loaded(self.key, took);
        state.failed_loads += u64::from(!matches!(outcome, Some(Ok(_))));
        // Forgotten meanwhile: another load of the key may be on its way.
        if state.loading.get(self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            state.loading.remove(self.key);
            match &outcome {
                Some(Ok(loaded)) => {
                    state.failures.forget(self.key);
                    let units = units(loaded, self.cache.counts_packed);
                    gone = state.books.insert(self.key.clone(), loaded.clone(), units);
                    state.count_evicted();
                }
                Some(Err(error)) => state.failures.failed(self.key, Arc::clone(error), now),
                None => {}
            }
        }
        drop(state);
        drop(gone);
        *self.flight.stage.lock() = outcome.map_or(Stage::Lost, Stage::Landed);
        self.flight.landed.notify_all();
    }
}

/// An adapter's weight: at least one unit.
fn units(loaded: &LoadedAdapter, counts_packed: bool) -> u64 {
    let packed = if counts_packed { loaded.extent.layout().most_packed_bytes() } else { 0 };
    let chat = loaded.chat.as_ref().map_or(0, OwnChat::bytes);
    ((loaded.extent.bytes() + packed + chat) as u64).div_ceil(UNIT_BYTES).max(1)
}
