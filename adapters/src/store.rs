//! Adapters by name: the directory, the host cache and the base model together.
//!
//! A name stands for what its folder holds now. The files' identities (length, time of change, inode) are compared with
//! those inspected at most once per [`StoreOptions::recheck_after`]; when they differ, the folder is inspected anew and
//! its adapter gets another key in the cache, so that weights of replaced files are never given out for new ones.
//! Who was given the old content keeps it: content is known by digest from there on.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use parking_lot::Mutex;

use crate::{
    AdapterDirectory, AdapterManifest, AdapterName, AdapterSource, BaseModel, Digest, Finding, HostCache,
    HostCacheStats, LoadedAdapter, Refusal, RefusedFolder,
    revision::{CacheKey, Revision},
};

/// Default of [`StoreOptions::recheck_after`].
pub const RECHECK_AFTER: Duration = Duration::from_secs(1);
/// Default of [`StoreOptions::retry_after`].
pub const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Times that one load starts over because the files changed meanwhile.
const MAX_STARTS: usize = 3;

/// Sizes and pauses of an [`AdapterStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Bytes of the host cache.
    pub host_cache_bytes: u64,
    /// How long a served adapter's files are taken to be unchanged.
    pub recheck_after: Duration,
    /// How long a refused adapter is not looked at again, and a failed load not tried again.
    pub retry_after: Duration,
    /// Whether what the CPU's kernels make of adapters beside a base in bf16 or int8 counts as part of them.
    pub counts_packed: bool,
}

impl StoreOptions {
    /// A host cache of `host_cache_bytes` and the default pauses.
    pub fn new(host_cache_bytes: u64) -> Self {
        let (recheck_after, retry_after) = (RECHECK_AFTER, RETRY_AFTER);
        Self { host_cache_bytes, recheck_after, retry_after, counts_packed: false }
    }
}

/// Why a name gives no adapter.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// No adapter has that name.
    #[error("no adapter named {name:?} is served")]
    Unknown {
        /// Asked for.
        name: String,
    },
    /// The adapter is there and cannot be used.
    #[error("adapter {name:?} is refused: {reason}")]
    Refused {
        /// Its name.
        name: String,
        /// File, tensor or field, found and expected.
        reason: Arc<Refusal>,
    },
}

/// A served adapter, for listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedAdapter {
    /// The name clients use.
    pub name: AdapterName,
    /// Its folder.
    pub path: PathBuf,
    /// Highest rank among its sites.
    pub max_rank: usize,
    /// When its weights were written, seconds since the Unix epoch; 0 where the file system does not tell.
    pub created: u64,
    /// Content digest, once it was loaded.
    pub digest: Option<Digest>,
}

/// The state that was last seen, and when it was last compared with the folder.
struct Watch {
    revision: Arc<Revision>,
    looked: Instant,
}

struct Watched {
    source: AdapterSource,
    watch: Mutex<Watch>,
}

/// When a folder is looked at again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    WhenDue,
    Now,
}

/// Adapters by name, loaded on first use and kept within a byte bound.
pub struct AdapterStore {
    base: Arc<dyn BaseModel>,
    adapters: BTreeMap<AdapterName, Watched>,
    nameless: Vec<RefusedFolder>,
    cache: HostCache<CacheKey, Refusal>,
    options: StoreOptions,
}

impl AdapterStore {
    /// Serves what `directory` found, for `base`.
    pub fn new(directory: AdapterDirectory, base: Arc<dyn BaseModel>, options: StoreOptions) -> Self {
        let looked = Instant::now();
        let (adapters, nameless) = directory.into_parts();
        let adapters = adapters.into_iter().map(|(name, found)| {
            let revision = Revision::new(found.finding);
            (name, Watched { source: found.source, watch: Mutex::new(Watch { revision, looked }) })
        });
        let cache = HostCache::new(options.host_cache_bytes, options.retry_after, options.counts_packed);
        Self { base, adapters: adapters.collect(), nameless, cache, options }
    }

    /// The adapter of that name, from the host cache or its files. Blocks while it is read: not for async threads.
    ///
    /// # Errors
    /// [`LoadError::Unknown`], or [`LoadError::Refused`] with the reason.
    pub fn load(&self, name: &str) -> Result<LoadedAdapter, LoadError> {
        let (name, watched) = self.watched(name)?;
        let mut revision = self.current(name, watched, Look::WhenDue);
        let mut reason = None;
        for _ in 0..MAX_STARTS {
            let manifest = match &revision.finding {
                Finding::Served(manifest) => manifest,
                Finding::Refused(reason) => return Err(refused(name, reason)),
            };
            match self.cache.get_or_load(&CacheKey::of(manifest), || self.read(name, manifest)) {
                Ok(loaded) => {
                    revision.loaded(loaded.digest);
                    return Ok(loaded);
                }
                Err(changing) if matches!(*changing, Refusal::Changing { .. }) => {
                    reason = Some(changing);
                    revision = self.current(name, watched, Look::Now);
                }
                Err(other) => {
                    revision.failed(Arc::clone(&other));
                    return Err(refused(name, &other));
                }
            }
        }
        let changing = || Arc::new(Refusal::Changing { path: watched.source.path().clone() });
        Err(refused(name, &reason.unwrap_or_else(changing)))
    }

    /// The adapter of that name when it is in the host cache and need not be looked at first; `None` when only
    /// [`AdapterStore::load`] can tell. Touches no file and waits for nobody.
    ///
    /// # Errors
    /// [`LoadError::Unknown`], or [`LoadError::Refused`] while a refused adapter is not looked at again.
    pub fn find(&self, name: &str) -> Result<Option<LoadedAdapter>, LoadError> {
        let (name, watched) = self.watched(name)?;
        // Whoever holds the lock is looking at the files.
        let Some(watch) = watched.watch.try_lock() else { return Ok(None) };
        if self.is_due(&watch) {
            return Ok(None);
        }
        match &watch.revision.finding {
            Finding::Served(manifest) => Ok(self.cache.get(&CacheKey::of(manifest))),
            Finding::Refused(reason) => Err(refused(name, reason)),
        }
    }

    /// Compares the adapter's folder with what is served at once, whatever the pauses: after an operator replaced it.
    /// The next [`AdapterStore::load`] reads the new files if they differ, and tries again what failed.
    ///
    /// # Errors
    /// As for [`AdapterStore::load`], short of what only the tensors tell.
    pub fn refresh(&self, name: &str) -> Result<(), LoadError> {
        let (name, watched) = self.watched(name)?;
        let before = watched.revision();
        let now = self.current(name, watched, Look::Now);
        match (&now.finding, Arc::ptr_eq(&before, &now)) {
            (Finding::Refused(reason), _) => Err(refused(name, reason)),
            (Finding::Served(manifest), true) => {
                self.cache.forget_failure(&CacheKey::of(manifest));
                Ok(())
            }
            (Finding::Served(_), false) => Ok(()),
        }
    }

    /// The adapters that are served, by name, as last seen: one whose tensors turned out bad is no longer among them.
    pub fn infos(&self) -> Vec<ServedAdapter> {
        let served = self.adapters.iter().filter_map(|(name, watched)| {
            let revision = watched.revision();
            let (manifest, digest) = revision.seen().ok()?;
            let written = manifest.identity().weights.modified;
            Some(ServedAdapter {
                name: name.clone(),
                path: watched.source.path().clone(),
                max_rank: manifest.max_rank(),
                created: written.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs()),
                digest,
            })
        });
        served.collect()
    }

    /// The folders that are not served, as last seen.
    pub fn refused(&self) -> Vec<RefusedFolder> {
        let named = self.adapters.iter().filter_map(|(name, watched)| {
            let reason = watched.revision().seen().err()?;
            Some(RefusedFolder { name: name.to_string(), reason })
        });
        named.chain(self.nameless.iter().cloned()).collect()
    }

    /// The host cache's figures at this moment.
    pub fn memory(&self) -> HostCacheStats {
        self.cache.stats()
    }

    fn watched(&self, name: &str) -> Result<(&AdapterName, &Watched), LoadError> {
        self.adapters.get_key_value(name).ok_or_else(|| LoadError::Unknown { name: name.to_owned() })
    }

    /// Reads an adapter, and gives it out only if its files still are those that its key names.
    fn read(&self, name: &AdapterName, manifest: &AdapterManifest) -> Result<LoadedAdapter, Refusal> {
        let outcome = manifest.load(&*self.base);
        if manifest.is_stale() {
            return Err(Refusal::Changing { path: manifest.folder().to_owned() });
        }
        match &outcome {
            Ok(loaded) => {
                let (digest, bytes) = (loaded.digest, loaded.extent.bytes());
                tracing::info!(adapter = ?name, %digest, bytes, "adapter loaded");
            }
            Err(reason) => tracing::warn!(adapter = ?name, %reason, "adapter refused"),
        }
        Ok(outcome?)
    }

    fn is_due(&self, watch: &Watch) -> bool {
        let pause = match &watch.revision.finding {
            Finding::Served(_) => self.options.recheck_after,
            Finding::Refused(_) => self.options.retry_after,
        };
        watch.looked.elapsed() >= pause
    }

    /// The state of the folder: inspected anew when it is due, or asked for, and was changed or refused. One caller
    /// looks, others with the same name wait for what it sees.
    fn current(&self, name: &AdapterName, watched: &Watched, look: Look) -> Arc<Revision> {
        let mut watch = watched.watch.lock();
        if look == Look::WhenDue && !self.is_due(&watch) {
            return Arc::clone(&watch.revision);
        }
        if let Finding::Served(manifest) = &watch.revision.finding {
            if watched.source.check_place().is_ok() && !manifest.is_stale() {
                watch.looked = Instant::now();
                return Arc::clone(&watch.revision);
            }
            self.cache.forget(&CacheKey::of(manifest));
        }
        let finding = match watched.source.inspect(self.base.catalog()) {
            Ok(manifest) => {
                tracing::info!(adapter = ?name, "adapter's files changed and were checked");
                Finding::Served(manifest)
            }
            Err(reason) => {
                tracing::warn!(adapter = ?name, %reason, "adapter refused");
                Finding::Refused(Arc::new(reason))
            }
        };
        watch.revision = Revision::new(finding);
        watch.looked = Instant::now();
        Arc::clone(&watch.revision)
    }
}

impl Watched {
    fn revision(&self) -> Arc<Revision> {
        Arc::clone(&self.watch.lock().revision)
    }
}

fn refused(name: &AdapterName, reason: &Arc<Refusal>) -> LoadError {
    LoadError::Refused { name: name.to_string(), reason: Arc::clone(reason) }
}
