//! The pool's books: who is resident where, who is leased, who goes first.
//!
//! No sink, no lock and no thread here; `pool.rs` and `lease.rs` own those.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use polylora_kernels::extent::{EXTENT_ALIGN, HostExtent};

use crate::pool::{PoolError, PoolMode, PoolStats};
use crate::tier_figures::{FiguresByKey, TierFigures};
use crate::{Arena, Digest, Extent};

/// One resident adapter.
#[derive(Debug)]
struct Resident {
    place: Extent,
    /// The host's values, kept alive by residency in [`PoolMode::Alias`].
    pinned: Option<Arc<HostExtent>>,
    hold: Hold,
}

/// Whether a resident may be evicted.
#[derive(Clone, Copy, Debug)]
enum Hold {
    /// That many leases are out: neither written nor freed.
    Leased(usize),
    /// No lease is out since that point of the pool's count of releases.
    Idle { since: u64 },
}

/// Residents, arena and order of eviction.
#[derive(Debug)]
pub(crate) struct Residency {
    mode: PoolMode,
    budget: usize,
    most_adapters: Option<NonZeroUsize>,
    arena: Arena,
    residents: HashMap<Digest, Resident>,
    /// Those without leases, longest unused first.
    idle: BTreeMap<u64, Digest>,
    /// Leased ones that go with their last lease.
    leaving: HashSet<Digest>,
    releases: u64,
    stats: PoolStats,
    figures: FiguresByKey<Digest>,
}

/// Bytes of `elements` f32 values.
fn bytes(elements: usize) -> usize {
    elements.saturating_mul(size_of::<f32>())
}

impl Residency {
    pub(crate) fn new(budget_bytes: usize, most_adapters: Option<NonZeroUsize>, mode: PoolMode) -> Self {
        let budget = budget_bytes / size_of::<f32>() / EXTENT_ALIGN * EXTENT_ALIGN;
        let capacity = match mode {
            PoolMode::Copy => budget,
            // Aliased values need no address, so no hole can be too short: only the budget counts.
            PoolMode::Alias => usize::MAX,
        };
        Self {
            mode,
            budget,
            most_adapters,
            arena: Arena::new(capacity),
            residents: HashMap::new(),
            idle: BTreeMap::new(),
            leaving: HashSet::new(),
            releases: 0,
            stats: PoolStats::default(),
            figures: FiguresByKey::default(),
        }
    }

    pub(crate) fn budget(&self) -> usize {
        self.budget
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.residents.contains_key(digest)
    }

    /// In no order.
    pub(crate) fn residents(&self) -> Vec<Digest> {
        self.residents.keys().copied().collect()
    }

    /// One more lease on `digest` when it is resident: its place and, when aliased, its values.
    pub(crate) fn lease(&mut self, digest: &Digest) -> Option<(Extent, Option<Arc<HostExtent>>)> {
        let resident = self.residents.get_mut(digest)?;
        // Somebody asked for it again: it is registered again, or its request is older than its end.
        self.leaving.remove(digest);
        resident.hold = match resident.hold {
            Hold::Leased(count) => Hold::Leased(count + 1),
            Hold::Idle { since } => {
                self.idle.remove(&since);
                self.stats.leased += 1;
                self.stats.leased_bytes += bytes(resident.place.len);
                Hold::Leased(1)
            }
        };
        self.stats.hits += 1;
        self.stats.leases += 1;
        self.figures.hit(digest);
        Some((resident.place, resident.pinned.clone()))
    }

    /// A place for `len` elements of one more resident, evicting the longest unused until there is one. When even
    /// evicting every one without a lease would not give one, none is evicted.
    pub(crate) fn reserve(&mut self, digest: Digest, len: usize) -> Result<Extent, PoolError> {
        let need = Arena::rounded(len).filter(|need| *need <= self.budget);
        let Some(need) = need else {
            let needed_bytes = bytes(Arena::rounded(len).unwrap_or(usize::MAX));
            return Err(PoolError::TooLarge { digest, needed_bytes, budget_bytes: bytes(self.budget) });
        };
        if let Some(place) = self.take(need) {
            return Ok(place);
        }
        let reachable = self.reachable();
        if reachable < need || self.is_full(self.stats.leased) {
            self.stats.refusals += 1;
            return Err(PoolError::AllLeased {
                digest,
                needed_bytes: bytes(need),
                reachable_bytes: bytes(reachable),
                leased_bytes: self.stats.leased_bytes,
                leased: self.stats.leased,
                most_adapters: self.most_adapters,
                leases: self.stats.leases,
                budget_bytes: bytes(self.budget),
            });
        }
        loop {
            let (_, oldest) = self.idle.first_key_value().expect("evicting all that are idle makes room");
            let oldest = *oldest;
            self.evict(&oldest);
            if let Some(place) = self.take(need) {
                return Ok(place);
            }
        }
    }

    /// Registers a stored adapter with its first lease.
    pub(crate) fn admit(&mut self, digest: Digest, place: Extent, extent: &Arc<HostExtent>, took: Duration) {
        let pinned = match self.mode {
            PoolMode::Copy => None,
            PoolMode::Alias => Some(Arc::clone(extent)),
        };
        let before = self.residents.insert(digest, Resident { place, pinned, hold: Hold::Leased(1) });
        assert!(before.is_none(), "{digest:?} is resident twice");
        self.stats.misses += 1;
        self.figures.loaded(&digest, took);
        self.stats.leases += 1;
        self.stats.leased += 1;
        self.stats.leased_bytes += bytes(place.len);
    }

    /// Gives back a place that was reserved and not stored into.
    pub(crate) fn cancel(&mut self, place: Extent) {
        self.arena.free(place);
    }

    /// One lease less on `digest`; the last one makes it the most recently used of the idle ones.
    pub(crate) fn release(&mut self, digest: &Digest) {
        let resident = self.residents.get_mut(digest).expect("a leased adapter is resident");
        self.stats.leases -= 1;
        resident.hold = match resident.hold {
            Hold::Leased(1) => {
                self.releases += 1;
                self.idle.insert(self.releases, *digest);
                self.stats.leased -= 1;
                self.stats.leased_bytes -= bytes(resident.place.len);
                Hold::Idle { since: self.releases }
            }
            Hold::Leased(count) => Hold::Leased(count - 1),
            Hold::Idle { .. } => panic!("{digest:?} was released more often than leased"),
        };
        if matches!(resident.hold, Hold::Idle { .. }) && self.leaving.remove(digest) {
            self.evict(digest);
        }
    }

    /// Evicts `digest` now, or with its last lease, unless it is leased anew until then.
    pub(crate) fn let_go(&mut self, digest: &Digest) {
        if !self.evict(digest) && self.contains(digest) {
            self.leaving.insert(*digest);
        }
    }

    /// Evicts `digest` unless it is leased or not there; says whether it went.
    pub(crate) fn evict(&mut self, digest: &Digest) -> bool {
        let Some(Resident { place, hold: Hold::Idle { since }, .. }) = self.residents.get(digest) else {
            return false;
        };
        self.idle.remove(since);
        self.arena.free(*place);
        self.residents.remove(digest);
        self.stats.evictions += 1;
        self.figures.evicted(digest);
        true
    }

    /// Evicts everything without a lease; returns how many went.
    pub(crate) fn evict_idle(&mut self) -> usize {
        let idle: Vec<Digest> = self.idle.values().copied().collect();
        idle.iter().filter(|digest| self.evict(digest)).count()
    }

    pub(crate) fn figures_of(&self, digest: &Digest) -> TierFigures {
        self.figures.of(digest)
    }

    pub(crate) fn keep_figures_of(&mut self, is_kept: impl Fn(&Digest) -> bool) {
        self.figures.retain(is_kept);
    }

    pub(crate) fn stats(&self) -> PoolStats {
        PoolStats {
            resident: self.residents.len(),
            resident_bytes: bytes(self.arena.used()),
            budget_bytes: bytes(self.budget),
            fragmentation: self.arena.fragmentation(),
            ..self.stats
        }
    }

    /// Checks the books against each other. O(n log n).
    ///
    /// # Panics
    /// When they disagree.
    pub(crate) fn check_integrity(&self) {
        self.arena.check_integrity();
        assert!(self.arena.used() <= self.budget, "the budget is exceeded");
        let most = self.most_adapters.map_or(usize::MAX, NonZeroUsize::get);
        assert!(self.residents.len() <= most, "more than {most} are resident");
        let held: usize = self.residents.values().map(|r| r.place.len).sum();
        assert_eq!(held, self.arena.used(), "places and arena disagree");
        let (mut leases, mut leased, mut leased_len) = (0, 0, 0);
        for (digest, resident) in &self.residents {
            match resident.hold {
                Hold::Leased(count) => {
                    leases += count;
                    leased += 1;
                    leased_len += resident.place.len;
                }
                Hold::Idle { since } => {
                    assert_eq!(self.idle.get(&since), Some(digest), "an idle one is unlisted")
                }
            }
        }
        assert_eq!(self.idle.len() + leased, self.residents.len(), "the list of idle ones is off");
        let is_leased =
            |digest: &Digest| self.residents.get(digest).is_some_and(|r| matches!(r.hold, Hold::Leased(_)));
        assert!(self.leaving.iter().all(is_leased), "one without a lease has not left");
        assert_eq!(
            (leases, leased, bytes(leased_len)),
            (self.stats.leases, self.stats.leased, self.stats.leased_bytes),
            "the counts of leases are off"
        );
    }

    /// `need` elements within arena and budget for one more resident, as things stand.
    fn take(&mut self, need: usize) -> Option<Extent> {
        let exceeds = self.is_full(self.residents.len()) || self.arena.used() + need > self.budget;
        if exceeds { None } else { self.arena.allocate(need) }
    }

    /// Whether no resident may join `adapters` others.
    fn is_full(&self, adapters: usize) -> bool {
        self.most_adapters.is_some_and(|most| adapters >= most.get())
    }

    /// Elements of the longest place that evicting every idle one would give. O(n log n), and only asked for when
    /// there is no room.
    fn reachable(&self) -> usize {
        let leased = self.residents.values().filter(|r| matches!(r.hold, Hold::Leased(_)));
        let mut places: Vec<Extent> = leased.map(|r| r.place).collect();
        places.sort_unstable();
        let budget_left = self.budget - places.iter().map(|p| p.len).sum::<usize>();
        let (mut longest, mut at) = (0, 0);
        for place in places {
            longest = longest.max(place.offset - at);
            at = place.end();
        }
        longest.max(self.arena.capacity() - at).min(budget_left)
    }
}
