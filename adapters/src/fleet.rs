//! The fleet: registry, host cache and files together, for the base models of a process.
//!
//! A request's name becomes a version ([`Fleet::find`], which touches no file and waits for nobody), and a version its
//! values ([`Fleet::load`], on a thread that may block). A version is its content: what a folder holds is compared with what
//! was registered, by the state of its files before each use and by digest whenever it is read, so that weights of replaced
//! files are never given out for those of a version. Replaced files are another version.

mod adoption;
mod answers;
mod examination;
mod health;
mod lifecycle;
mod listing;
mod roots;
mod traffic;
mod watching;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use polylora_registry::{Registry, RegistryStore, StateError, StoreError, Timestamp, Version, VersionId};

use crate::{
    AdapterName, Base, Digest, HostCache, HostCacheLimits, HostCacheStats, LoadedAdapter, OpenError,
    PoolMonitor, Refusal, RefusedFolder, TierFigures, bases::Bases, load_failures::Backoff,
};

pub use health::{HealthCheck, HealthReport};
pub use lifecycle::{FleetError, RegisterFolder, RegisterVirtual};
pub use listing::{Listed, State};
pub use roots::{PathError, Roots};
pub use traffic::{Comparison, RollbackRule, Window};
pub use watching::{WatchError, Watcher};

/// Default of [`FleetOptions::recheck_after`].
pub const RECHECK_AFTER: Duration = Duration::from_secs(1);
/// Default of [`FleetOptions::retry_after`].
pub const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Longest pause between two tries of what keeps failing.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Names that were looked for in vain and are not looked for again for a moment.
const MOST_MISSES: usize = 1_024;

/// Sizes and pauses of a [`Fleet`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetOptions {
    /// Bytes of the host cache.
    pub host_cache_bytes: u64,
    /// Most adapters in the host cache.
    pub most_in_host_cache: Option<usize>,
    /// Whether what the CPU's kernels make of adapters beside a base in bf16 or int8 counts as part of them.
    pub counts_packed: bool,
    /// How long a version's files are taken to be unchanged.
    pub recheck_after: Duration,
    /// How long a failed load is not tried again at first; the pause doubles with every failure in a row.
    pub retry_after: Duration,
    /// Highest rank of a site.
    pub max_rank: usize,
}

impl FleetOptions {
    /// A host cache of `host_cache_bytes` and the default pauses.
    pub fn new(host_cache_bytes: u64) -> Self {
        Self {
            host_cache_bytes,
            most_in_host_cache: None,
            counts_packed: false,
            recheck_after: RECHECK_AFTER,
            retry_after: RETRY_AFTER,
            max_rank: crate::MAX_RANK,
        }
    }
}

/// Why a fleet cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenFleetError {
    /// Its record.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its folders.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// What was found could not be registered.
    #[error("the adapters that were found could not be registered")]
    Store(#[from] StoreError),
}

/// Why a name gives no adapter.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// No adapter has that name, or nobody answers under it.
    #[error("{reason}")]
    Unknown {
        /// Asked for.
        name: String,
        /// Why it is nobody's.
        reason: String,
    },
    /// The adapter is there and cannot be used.
    #[error("adapter {name:?} is refused: {reason}")]
    Refused {
        /// Its name.
        name: String,
        /// File, tensor or field, found and expected.
        reason: Arc<Refusal>,
    },
    /// The registry could not take in what was found.
    #[error("adapter {name:?} cannot be registered: {reason}")]
    Store {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// A version that answers, with its values.
#[derive(Clone, Debug)]
pub struct Answering {
    /// The values.
    pub adapter: LoadedAdapter,
    /// Who it is.
    pub version: Arc<Version>,
}

/// What [`Fleet::find`] can say without waiting.
#[derive(Clone, Debug)]
pub enum FleetFound {
    /// In host memory.
    Loaded(Answering),
    /// Only [`Fleet::load`] can tell.
    NotLoaded(Ticket),
}

/// What is to be loaded; the same for all who wait for the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ticket {
    /// That version and no other.
    Version(VersionId),
    /// That version, for a request that names none: what replaced its files in place may answer instead.
    Current(VersionId),
    /// Whatever the folders hold under a name that is not registered.
    Resolve(String),
}

/// When a version's files were last looked at, and what was wrong then.
#[derive(Debug)]
struct Look {
    at: Instant,
    fault: Option<(Arc<Refusal>, u32)>,
}

/// All adapters of the process's base models.
pub struct Fleet {
    bases: Bases,
    store: RegistryStore,
    cache: HostCache<Digest, Refusal>,
    roots: Roots,
    looks: Mutex<HashMap<VersionId, Look>>,
    /// Names that only refused folders have.
    turned_away: Mutex<BTreeMap<AdapterName, (Look, PathBuf)>>,
    nameless: Mutex<Vec<RefusedFolder>>,
    misses: Mutex<HashMap<String, Instant>>,
    /// One adoption of a name at a time.
    adopting: Mutex<HashMap<AdapterName, Arc<Mutex<()>>>>,
    pinned: Mutex<HashSet<Digest>>,
    traffic: traffic::TrafficBook,
    judges_trials: AtomicBool,
    pools: Mutex<Vec<PoolMonitor>>,
    backoff: Backoff,
    options: FleetOptions,
}

/// What a fleet is made of.
pub struct FleetParts<'a> {
    /// The base models, at least one. An adapter whose sites fit several is for the first of them.
    pub bases: Vec<Base>,
    /// Where the registry is kept; `None` for one that ends with the process.
    pub state_dir: Option<&'a Path>,
    /// Where adapters may lie.
    pub roots: Roots,
}

impl Fleet {
    /// Opens the registry and takes in what the adapters directory holds. Every version that is new, or whose files changed,
    /// is read once, in parallel, for its digest and its health; what is bad is refused with a log line, not an error.
    ///
    /// # Errors
    /// [`OpenFleetError`].
    ///
    /// # Panics
    /// When there is no base model.
    pub fn open(parts: FleetParts<'_>, options: FleetOptions) -> Result<Self, OpenFleetError> {
        let (store, usage) = match parts.state_dir {
            Some(directory) => RegistryStore::open(directory)?,
            None => (RegistryStore::in_memory(), BTreeMap::new()),
        };
        let first = options.retry_after;
        let backoff = Backoff { first, longest: LONGEST_PAUSE.max(first) };
        let cache = HostCache::new(HostCacheLimits {
            bytes: options.host_cache_bytes,
            adapters: options.most_in_host_cache,
            counts_packed: options.counts_packed,
            first_pause: backoff.first,
            longest_pause: backoff.longest,
        });
        let fleet = Self {
            bases: Bases::new(parts.bases),
            store,
            cache,
            roots: parts.roots,
            looks: Mutex::default(),
            turned_away: Mutex::default(),
            nameless: Mutex::default(),
            misses: Mutex::default(),
            adopting: Mutex::default(),
            pinned: Mutex::default(),
            traffic: traffic::TrafficBook::new(usage),
            judges_trials: AtomicBool::new(false),
            pools: Mutex::default(),
            backoff,
            options,
        };
        fleet.rescan()?;
        fleet.apply_pins();
        Ok(fleet)
    }

    /// The registry as it is now; it stays so for whoever holds it.
    pub fn registry(&self) -> Arc<Registry> {
        self.store.read()
    }

    /// The host cache's figures at this moment.
    pub fn memory(&self) -> HostCacheStats {
        self.cache.stats()
    }

    /// A pool whose residents are shown as such, and leave it when they are deleted.
    pub fn watch_pool(&self, pool: PoolMonitor) {
        let mut pools = self.pools.lock();
        // Those of runners that were built anew after a panic are gone.
        pools.retain(PoolMonitor::is_alive);
        pools.push(pool);
    }

    /// The pools' figures, one for each instance.
    pub fn pools(&self) -> Vec<crate::PoolStats> {
        self.pools.lock().iter().map(PoolMonitor::stats).collect()
    }

    /// A version's figures in host memory, and on the devices together.
    pub fn tier_figures(&self, version: &Version) -> (TierFigures, TierFigures) {
        let on_devices = self.pools.lock().iter().fold(TierFigures::default(), |sum, pool| {
            let of = pool.figures_of(&version.digest);
            TierFigures {
                hits: sum.hits + of.hits,
                loads: sum.loads + of.loads,
                load_micros: sum.load_micros + of.load_micros,
                evictions: sum.evictions + of.evictions,
            }
        });
        (self.cache.figures_of(&version.digest), on_devices)
    }

    fn is_resident(&self, digest: &Digest) -> bool {
        self.pools.lock().iter().any(|pool| pool.is_resident(digest))
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}
