//! The device pool: which adapters are resident on a device, within a budget of bytes and of adapters.
//!
//! One owner leases; leases may be dropped anywhere. The lock around the books is never held while a sink works.

use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};
use std::time::Instant;

use polylora_kernels::extent::HostExtent;

use crate::residency::Residency;
use crate::sync::Mutex;
use crate::{Digest, Extent, Lease, LoadedAdapter, TierFigures};

/// What residency means for the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// The sink copies an extent into the device's buffer at its offset; an adapter needs one hole that is long
    /// enough. The pool keeps no host copy.
    Copy,
    /// The device reads the host's values where the host cache put them (the CPU). Residency holds the
    /// `Arc<HostExtent>`, so the budget counts host bytes that the host cache cannot give back by evicting. Holes do
    /// not matter. Give [`NoCopy`] as the sink.
    Alias,
}

/// Where a missing adapter's values are written.
pub trait ExtentSink {
    /// Writes `extent`, which may be empty, at `offset` (in elements) of the device's buffer. After an error, or a
    /// panic, the pool forgets the adapter and its place.
    fn store(&mut self, offset: usize, extent: &Arc<HostExtent>) -> Result<(), StoreError>;
}

/// The sink of a pool in [`PoolMode::Alias`]: there is nothing to write.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCopy;

impl ExtentSink for NoCopy {
    fn store(&mut self, _offset: usize, _extent: &Arc<HostExtent>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A device refused to take an extent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct StoreError {
    /// The device's words.
    pub reason: String,
}

/// Why there is no lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The adapter will never fit.
    #[error(
        "adapter {digest} needs {needed_bytes} bytes on the device, the pool has {budget_bytes} in all: \
         raise the pool's budget"
    )]
    TooLarge {
        /// The adapter.
        digest: Digest,
        /// Bytes it needs.
        needed_bytes: usize,
        /// Bytes of the pool.
        budget_bytes: usize,
    },
    /// The adapter will fit once leases are given back. Nothing was evicted.
    #[error(
        "adapter {digest} needs {needed_bytes} bytes on the device: {leased_bytes} of {budget_bytes} are held by \
         {leases} leases on {leased} adapters{}, and the longest place between those has {reachable_bytes}",
        of_most(*.most_adapters)
    )]
    AllLeased {
        /// The adapter.
        digest: Digest,
        /// Bytes it needs.
        needed_bytes: usize,
        /// Bytes of the longest place that evicting everything without a lease would give.
        reachable_bytes: usize,
        /// Bytes of leased adapters.
        leased_bytes: usize,
        /// Adapters with at least one lease.
        leased: usize,
        /// Adapters that may be resident, when that is bounded.
        most_adapters: Option<NonZeroUsize>,
        /// Leases that are out.
        leases: usize,
        /// Bytes of the pool.
        budget_bytes: usize,
    },
    /// The device did not take the values.
    #[error("adapter {digest} could not be stored on the device")]
    Store {
        /// The adapter.
        digest: Digest,
        /// What the device said.
        source: StoreError,
    },
}

/// A pool's figures at one moment; counts of events are since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PoolStats {
    /// Adapters that are resident.
    pub resident: usize,
    /// Adapters with at least one lease.
    pub leased: usize,
    /// Leases that are out.
    pub leases: usize,
    /// Bytes of the resident adapters' places.
    pub resident_bytes: usize,
    /// Bytes of the leased adapters' places.
    pub leased_bytes: usize,
    /// Bytes in all.
    pub budget_bytes: usize,
    /// Leases on adapters that were resident.
    pub hits: u64,
    /// Leases that stored their adapter first.
    pub misses: u64,
    /// Adapters that were evicted.
    pub evictions: u64,
    /// Times that leases left no room.
    pub refusals: u64,
    /// Share of the free bytes outside the longest hole, 0 to 1.
    pub fragmentation: f64,
}

/// Residents of one device: least recently used goes first, of those without a lease.
///
/// An adapter is known by its digest alone, so two names with one content share one place. Use counts from the moment
/// the last lease was given back.
#[derive(Debug)]
pub struct DevicePool {
    residency: Arc<Mutex<Residency>>,
}

/// A view of a pool for other threads: figures, and who is resident. What it says may be over when it is read.
#[derive(Clone, Debug)]
pub struct PoolMonitor {
    residency: Weak<Mutex<Residency>>,
}

impl DevicePool {
    /// An empty pool of `budget_bytes`, rounded down to whole lines of 64 bytes.
    pub fn new(budget_bytes: usize, mode: PoolMode) -> Self {
        Self::with_most(budget_bytes, None, mode)
    }

    /// An empty pool of `budget_bytes`, rounded down to whole lines of 64 bytes, where at most `most_adapters` are
    /// resident at one time; `None` for as many as the bytes allow.
    pub fn with_most(budget_bytes: usize, most_adapters: Option<NonZeroUsize>, mode: PoolMode) -> Self {
        Self { residency: Arc::new(Mutex::new(Residency::new(budget_bytes, most_adapters, mode))) }
    }

    /// Elements that the device's buffer must have in [`PoolMode::Copy`].
    pub fn capacity(&self) -> usize {
        self.residency.lock().budget()
    }

    /// Leases `adapter`. When it is not resident, evicts others without leases until its place is free and has `sink`
    /// store it there; only then is `sink` called, and never on a place that is leased.
    ///
    /// # Errors
    /// [`PoolError::TooLarge`] for good, [`PoolError::AllLeased`] until leases are given back, [`PoolError::Store`]
    /// when the sink fails.
    pub fn lease(&mut self, adapter: &LoadedAdapter, sink: &mut dyn ExtentSink) -> Result<Lease, PoolError> {
        let digest = adapter.digest;
        let reserved = {
            let mut residency = self.residency.lock();
            if let Some((place, pinned)) = residency.lease(&digest) {
                let extent = pinned.unwrap_or_else(|| Arc::clone(&adapter.extent));
                return Ok(Lease::counted(Arc::clone(&self.residency), digest, place, extent));
            }
            residency.reserve(digest, adapter.extent.layout().len())?
        };
        let began = Instant::now();
        let reservation = Reservation { residency: &self.residency, place: Some(reserved) };
        sink.store(reserved.offset, &adapter.extent).map_err(|source| PoolError::Store { digest, source })?;
        let place = reservation.keep();
        self.residency.lock().admit(digest, place, &adapter.extent, began.elapsed());
        Ok(Lease::counted(Arc::clone(&self.residency), digest, place, Arc::clone(&adapter.extent)))
    }

    /// Whether an adapter is resident: leasing it stores nothing.
    pub fn is_resident(&self, digest: &Digest) -> bool {
        self.residency.lock().contains(digest)
    }

    /// Evicts an adapter unless it is leased or not there; says whether it went.
    pub fn evict(&mut self, digest: &Digest) -> bool {
        self.residency.lock().evict(digest)
    }

    /// Evicts every adapter without a lease; returns how many went.
    pub fn evict_idle(&mut self) -> usize {
        self.residency.lock().evict_idle()
    }

    /// The figures at this moment.
    pub fn stats(&self) -> PoolStats {
        self.residency.lock().stats()
    }

    /// A view for other threads.
    pub fn monitor(&self) -> PoolMonitor {
        PoolMonitor { residency: Arc::downgrade(&self.residency) }
    }

    /// Checks the books against each other. O(n log n).
    ///
    /// # Panics
    /// When they disagree.
    pub fn check_integrity(&self) {
        self.residency.lock().check_integrity();
    }
}

impl PoolMonitor {
    /// The figures at this moment; all zero once the pool is gone.
    pub fn stats(&self) -> PoolStats {
        self.residency.upgrade().map(|residency| residency.lock().stats()).unwrap_or_default()
    }

    /// One adapter's figures; all zero once the pool is gone.
    pub fn figures_of(&self, digest: &Digest) -> TierFigures {
        self.residency.upgrade().map(|residency| residency.lock().figures_of(digest)).unwrap_or_default()
    }

    /// Forgets the figures of single adapters, of all others.
    pub fn keep_figures_of(&self, is_kept: impl Fn(&Digest) -> bool) {
        if let Some(residency) = self.residency.upgrade() {
            residency.lock().keep_figures_of(is_kept);
        }
    }

    /// The adapters that are resident, leased or not, in order of their digests.
    pub fn residents(&self) -> Vec<Digest> {
        let residency = self.residency.upgrade();
        let mut residents = residency.map(|residency| residency.lock().residents()).unwrap_or_default();
        residents.sort_unstable();
        residents
    }

    /// Whether an adapter is resident.
    pub fn is_resident(&self, digest: &Digest) -> bool {
        self.residency.upgrade().is_some_and(|residency| residency.lock().contains(digest))
    }

    /// Evicts an adapter, at once or with its last lease, unless it is leased anew until then. Waits for nobody.
    pub fn let_go(&self, digest: &Digest) {
        if let Some(residency) = self.residency.upgrade() {
            residency.lock().let_go(digest);
        }
    }

    /// Whether the pool is still there, or leases of it.
    pub fn is_alive(&self) -> bool {
        self.residency.strong_count() > 0
    }
}

/// How many may be resident, in words that follow a number of adapters.
fn of_most(most_adapters: Option<NonZeroUsize>) -> String {
    most_adapters.map_or_else(String::new, |most| format!(" of at most {most}"))
}

/// A place that goes back to the arena unless it is kept: what undoes a store that failed or panicked.
struct Reservation<'a> {
    residency: &'a Mutex<Residency>,
    place: Option<Extent>,
}

impl Reservation<'_> {
    fn keep(mut self) -> Extent {
        self.place.take().expect("a reservation is kept once")
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.residency.lock().cancel(place);
        }
    }
}
