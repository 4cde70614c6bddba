//! The host cache's books: what is kept, who goes first, who stays.
//!
//! No lock, no clock and no adapter here; `host_cache.rs` owns those. Values that leave are handed back, so that
//! whoever holds a lock around the books can let go of it before they are freed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
};

/// Most keys that are pinned at one time.
pub const MAX_PINS: usize = 10_000;

/// Why a key is not pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// As many are pinned as may be.
    #[error("{most} adapters are pinned, which is the most: unpin one first")]
    TooMany {
        /// The bound, [`MAX_PINS`].
        most: usize,
    },
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BookLimits {
    /// Units of weight in all.
    pub(crate) units: u64,
    /// Values in all; `None` for as many as the units allow.
    pub(crate) values: Option<usize>,
}

/// Values by key within limits: least recently used goes first, of those that are not pinned.
///
/// Pinned values are kept whatever the limits say; only they can exceed them. Operations are O(log n) each, and once
/// more for each value that goes.
pub(crate) struct CacheBooks<K, V> {
    limits: BookLimits,
    kept: HashMap<K, Kept<V>>,
    /// Those that are not pinned, longest unused first.
    unpinned: BTreeMap<u64, K>,
    /// Keys that are pinned, kept or not.
    pins: HashSet<K>,
    uses: u64,
    units: u64,
    pinned_units: u64,
    evictions: u64,
    /// Who was evicted since that was last asked.
    evicted: Vec<K>,
}

/// One value that is kept.
struct Kept<V> {
    value: V,
    units: u64,
    /// The point of the count of uses at which it was used last.
    used: u64,
}

impl<K: Hash + Eq + Clone, V> CacheBooks<K, V> {
    pub(crate) fn new(limits: BookLimits) -> Self {
        Self {
            limits,
            kept: HashMap::new(),
            unpinned: BTreeMap::new(),
            pins: HashSet::new(),
            uses: 0,
            units: 0,
            pinned_units: 0,
            evictions: 0,
            evicted: vec![],
        }
    }

    /// The value of `key`, which is now the most recently used.
    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        let kept = self.kept.get_mut(key)?;
        self.uses += 1;
        let before = std::mem::replace(&mut kept.used, self.uses);
        if let Some(key) = self.unpinned.remove(&before) {
            self.unpinned.insert(self.uses, key);
        }
        Some(&kept.value)
    }

    /// The keys of all that are kept, in no order; no use.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.kept.keys()
    }

    /// Whether `key` is kept; no use.
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.kept.contains_key(key)
    }

    /// Keeps `value` as the most recently used, and evicts the longest unused until the limits hold. A value that
    /// would not fit beside the pinned ones is not kept, and pushes nobody out. Returns what went: the key's value
    /// before, the evicted ones, and `value` itself when it is not kept.
    #[must_use = "what went is freed where this is dropped"]
    pub(crate) fn insert(&mut self, key: K, value: V, units: u64) -> Vec<V> {
        let mut gone: Vec<V> = self.remove(&key).into_iter().collect();
        let is_pinned = self.pins.contains(&key);
        if !is_pinned && !self.fits_beside_pinned(units) {
            gone.push(value);
            return gone;
        }
        self.uses += 1;
        self.units += units;
        if is_pinned {
            self.pinned_units += units;
        } else {
            self.unpinned.insert(self.uses, key.clone());
        }
        self.kept.insert(key, Kept { value, units, used: self.uses });
        self.enforce(&mut gone);
        gone
    }

    /// Drops `key`, pinned or not; the pin stays. No eviction.
    #[must_use = "what went is freed where this is dropped"]
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let kept = self.kept.remove(key)?;
        self.units -= kept.units;
        if self.unpinned.remove(&kept.used).is_none() {
            self.pinned_units -= kept.units;
        }
        Some(kept.value)
    }

    /// Pins `key`, kept or not: it is not evicted until it is unpinned.
    ///
    /// # Errors
    /// [`PinError::TooMany`] when [`MAX_PINS`] others are.
    pub(crate) fn pin(&mut self, key: &K) -> Result<(), PinError> {
        if self.pins.contains(key) {
            return Ok(());
        }
        if self.pins.len() >= MAX_PINS {
            return Err(PinError::TooMany { most: MAX_PINS });
        }
        self.pins.insert(key.clone());
        if let Some(kept) = self.kept.get(key) {
            self.unpinned.remove(&kept.used);
            self.pinned_units += kept.units;
        }
        Ok(())
    }

    /// Unpins `key`, which is as old as its last use. Returns what the limits then push out.
    #[must_use = "what went is freed where this is dropped"]
    pub(crate) fn unpin(&mut self, key: &K) -> Vec<V> {
        let mut gone = vec![];
        if self.pins.remove(key)
            && let Some(kept) = self.kept.get(key)
        {
            self.unpinned.insert(kept.used, key.clone());
            self.pinned_units -= kept.units;
            self.enforce(&mut gone);
        }
        gone
    }

    /// Values kept.
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Values kept that are pinned.
    pub(crate) fn pinned(&self) -> usize {
        self.kept.len() - self.unpinned.len()
    }

    /// Units of the values kept.
    pub(crate) fn units(&self) -> u64 {
        self.units
    }

    /// Values that the limits pushed out so far.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Who was evicted since the last call.
    pub(crate) fn take_evicted(&mut self) -> Vec<K> {
        std::mem::take(&mut self.evicted)
    }

    /// Whether evicting all that are not pinned would make room for `units`.
    fn fits_beside_pinned(&self, units: u64) -> bool {
        let units_fit = self.pinned_units.saturating_add(units) <= self.limits.units;
        units_fit && self.limits.values.is_none_or(|most| self.pinned() < most)
    }

    fn exceeds_limits(&self) -> bool {
        let BookLimits { units, values } = self.limits;
        self.units > units || values.is_some_and(|most| self.kept.len() > most)
    }

    /// Evicts until the limits hold, or only pinned ones are left.
    fn enforce(&mut self, gone: &mut Vec<V>) {
        while self.exceeds_limits()
            && let Some((_, oldest)) = self.unpinned.pop_first()
        {
            let kept = self.kept.remove(&oldest).expect("the list of unpinned ones is of kept ones");
            self.units -= kept.units;
            self.evictions += 1;
            self.evicted.push(oldest);
            gone.push(kept.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A value that says which insertion it came from.
    type Tag = usize;

    /// The same by one list in order of use, longest unused first: slow and obviously right.
    struct Oracle {
        limits: BookLimits,
        entries: Vec<(u8, Tag, u64)>,
        pins: Vec<u8>,
        evictions: u64,
    }

    impl Oracle {
        fn is_pinned(&self, key: u8) -> bool {
            self.pins.contains(&key)
        }

        fn exceeds(&self, entries: &[(u8, Tag, u64)]) -> bool {
            entries.iter().map(|e| e.2).sum::<u64>() > self.limits.units
                || self.limits.values.is_some_and(|most| entries.len() > most)
        }

        fn get(&mut self, key: u8) -> Option<Tag> {
            let at = self.entries.iter().position(|e| e.0 == key)?;
            let entry = self.entries.remove(at);
            self.entries.push(entry);
            Some(entry.1)
        }

        fn remove(&mut self, key: u8) -> Option<Tag> {
            let at = self.entries.iter().position(|e| e.0 == key)?;
            Some(self.entries.remove(at).1)
        }

        fn evict(&mut self) -> Vec<Tag> {
            let mut gone = vec![];
            while self.exceeds(&self.entries) {
                let Some(at) = self.entries.iter().position(|e| !self.is_pinned(e.0)) else { break };
                gone.push(self.entries.remove(at).1);
                self.evictions += 1;
            }
            gone
        }

        fn insert(&mut self, key: u8, tag: Tag, units: u64) -> Vec<Tag> {
            let mut gone: Vec<Tag> = self.remove(key).into_iter().collect();
            let mut alone: Vec<_> = self.entries.iter().copied().filter(|e| self.is_pinned(e.0)).collect();
            alone.push((key, tag, units));
            if !self.is_pinned(key) && self.exceeds(&alone) {
                gone.push(tag);
                return gone;
            }
            self.entries.push((key, tag, units));
            gone.extend(self.evict());
            gone
        }

        fn unpin(&mut self, key: u8) -> Vec<Tag> {
            self.pins.retain(|p| *p != key);
            self.evict()
        }

        fn check(&self, books: &CacheBooks<u8, Tag>) {
            let units: u64 = self.entries.iter().map(|e| e.2).sum();
            let unpinned: Vec<u8> =
                self.entries.iter().map(|e| e.0).filter(|k| !self.is_pinned(*k)).collect();
            assert_eq!(books.unpinned.values().copied().collect::<Vec<_>>(), unpinned, "the order of use");
            assert_eq!((books.len(), books.units()), (self.entries.len(), units));
            assert_eq!(books.pinned(), self.entries.len() - unpinned.len());
            assert_eq!(books.evictions(), self.evictions);
            assert_eq!(books.evicted.len() as u64, self.evictions, "each eviction names its key");
            for (key, tag, _) in &self.entries {
                assert!(books.contains(key) && books.kept[key].value == *tag);
            }
            let within = !self.exceeds(&self.entries);
            assert!(within || unpinned.is_empty(), "only pinned values exceed the limits");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u64),
        Get(u8),
        Pin(u8),
        Unpin(u8),
        Forget(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = || 0u8..10;
        prop_oneof![
            6 => (key(), 0u64..9).prop_map(|(key, units)| Step::Insert(key, units)),
            4 => key().prop_map(Step::Get),
            1 => key().prop_map(Step::Pin),
            2 => key().prop_map(Step::Unpin),
            1 => key().prop_map(Step::Forget),
        ]
    }

    proptest! {
        #[test]
        fn they_say_what_one_list_in_order_of_use_says(
            units in 0u64..40,
            values in prop::option::of(0usize..6),
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let limits = BookLimits { units, values };
            let mut books = CacheBooks::new(limits);
            let mut oracle = Oracle { limits, entries: vec![], pins: vec![], evictions: 0 };
            for (tag, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(key, units) => {
                        prop_assert_eq!(books.insert(key, tag, units), oracle.insert(key, tag, units));
                    }
                    Step::Get(key) => prop_assert_eq!(books.get(&key).copied(), oracle.get(key)),
                    Step::Pin(key) => {
                        prop_assert_eq!(books.pin(&key), Ok(()));
                        oracle.pins.push(key);
                    }
                    Step::Unpin(key) => prop_assert_eq!(books.unpin(&key), oracle.unpin(key)),
                    Step::Forget(key) => prop_assert_eq!(books.remove(&key), oracle.remove(key)),
                }
                oracle.check(&books);
            }
        }
    }

    #[test]
    fn pins_are_bounded_and_pinning_again_is_no_new_pin() {
        let mut books = CacheBooks::<usize, ()>::new(BookLimits { units: 1, values: None });
        for key in 0..MAX_PINS {
            assert_eq!(books.pin(&key), Ok(()));
        }
        assert_eq!(books.pin(&MAX_PINS), Err(PinError::TooMany { most: MAX_PINS }));
        assert_eq!(books.pin(&0), Ok(()));
        assert!(books.unpin(&0).is_empty());
        assert_eq!(books.pin(&MAX_PINS), Ok(()));
    }
}
