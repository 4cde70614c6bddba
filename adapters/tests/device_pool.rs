//! Laws of the device pool, over random sequences of leases, drops, evictions and failures.

mod made_adapter;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use made_adapter::adapter_of;
use polylora_adapters::{
    DevicePool, Digest, Extent, ExtentSink, Lease, LoadedAdapter, NoCopy, PoolError, PoolMode, StoreError,
};
use polylora_kernels::extent::HostExtent;
use proptest::prelude::*;

const LINE: usize = 16;
const LINE_BYTES: usize = LINE * 4;

/// Adapter number `tag`, of `lines` lines of 64 bytes.
fn adapter(tag: u8, lines: usize) -> LoadedAdapter {
    adapter_of(tag, lines * LINE)
}

/// Lines that adapter `tag` takes: different sizes, an empty adapter among them.
fn lines_of(tag: u8) -> usize {
    [1, 2, 3, 5, 8, 0, 4, 13][tag as usize % 8]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Works,
    Fails,
    Panics,
}

/// The device's memory: one tag per element, and the ranges that must not be written now.
struct Memory {
    tags: Vec<Option<u8>>,
    leased: Vec<Extent>,
    next: (u8, Fate),
    stored: usize,
}

impl ExtentSink for Memory {
    fn store(&mut self, offset: usize, extent: &Arc<HostExtent>) -> Result<(), StoreError> {
        let end = offset + extent.values().len().max(1).next_multiple_of(LINE);
        assert!(self.leased.iter().all(|l| end <= l.offset || l.end() <= offset), "a leased slot is written");
        let (tag, fate) = self.next;
        self.tags[offset..end].fill(Some(tag));
        self.stored += 1;
        match fate {
            Fate::Works => Ok(()),
            Fate::Fails => Err(StoreError { reason: "the device is full".into() }),
            Fate::Panics => panic!("the device is gone"),
        }
    }
}

/// What a pool should be: who is where, and who was given back when.
struct Model {
    most: Option<NonZeroUsize>,
    places: BTreeMap<u8, Extent>,
    idle: Vec<u8>,
    /// Those that go with their last lease.
    leaving: Vec<u8>,
    leases: Vec<(u8, Lease)>,
}

impl Model {
    fn leased(&self) -> Vec<Extent> {
        self.places.iter().filter(|(tag, _)| !self.idle.contains(tag)).map(|(_, place)| *place).collect()
    }

    /// Whether one more of `need` elements can join those at `taken`.
    fn has_room(&self, taken: Vec<Extent>, capacity: usize, need: usize) -> bool {
        self.most.is_none_or(|most| taken.len() < most.get()) && Self::longest_hole(taken, capacity) >= need
    }

    /// The longest run outside `taken`.
    fn longest_hole(mut taken: Vec<Extent>, capacity: usize) -> usize {
        taken.sort();
        taken.push(Extent { offset: capacity, len: 0 });
        let starts = std::iter::once(0).chain(taken.iter().map(Extent::end));
        taken.iter().zip(starts).map(|(place, start)| place.offset - start).max().unwrap_or(0)
    }

    fn lease(&mut self, pool: &mut DevicePool, memory: &mut Memory, tag: u8, fate: Fate) {
        let capacity = pool.capacity();
        let before = pool.stats();
        let stored = memory.stored;
        let need = lines_of(tag).max(1) * LINE;
        (memory.leased, memory.next) = (self.leased(), (tag, fate));
        let loaded = adapter(tag, lines_of(tag));
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.lease(&loaded, memory)));
        let reached_the_sink = memory.stored > stored;
        let gone: Vec<u8> =
            self.places.keys().copied().filter(|t| !pool.is_resident(&Digest([*t; 32]))).collect();
        if self.places.contains_key(&tag) {
            assert!(!reached_the_sink && gone.is_empty(), "a hit stores and evicts nothing");
            self.idle.retain(|t| *t != tag);
            self.leaving.retain(|t| *t != tag);
            let lease = outcome.expect("nothing panics on a hit").expect("a hit has a lease");
            assert_eq!(lease.place(), self.places[&tag]);
            self.leases.push((tag, lease));
            return;
        }
        // Those that went are the longest unused, and the last of them was needed.
        let mut expected = self.idle[..gone.len()].to_vec();
        if let Some((last, rest)) = expected.split_last() {
            let kept =
                self.places.iter().filter(|(t, _)| !rest.contains(t)).map(|(_, place)| *place).collect();
            assert!(!self.has_room(kept, capacity, need), "{last} was evicted without need");
        }
        expected.sort();
        assert_eq!(gone, expected, "the least recently used go first");
        match outcome {
            Ok(Ok(lease)) => {
                assert_eq!(fate, Fate::Works);
                self.idle.drain(..gone.len());
                self.places.retain(|t, _| !gone.contains(t));
                let place = lease.place();
                assert!(self.places.values().all(|p| place.end() <= p.offset || p.end() <= place.offset));
                assert!(place.len == need && place.end() <= capacity && lease.offset() == place.offset);
                assert_eq!(lease.digest(), loaded.digest);
                assert_eq!(memory.stored, stored + 1, "a miss stores once");
                self.places.insert(tag, place);
                self.leases.push((tag, lease));
            }
            Ok(Err(PoolError::TooLarge { needed_bytes, budget_bytes, .. })) => {
                assert!(needed_bytes > budget_bytes && need > capacity && !reached_the_sink);
                assert!(gone.is_empty());
            }
            Ok(Err(PoolError::AllLeased { reachable_bytes, leases, leased, most_adapters, .. })) => {
                assert!(gone.is_empty() && !reached_the_sink, "a refusal evicts and writes nothing");
                assert_eq!(reachable_bytes, Self::longest_hole(self.leased(), capacity) * 4);
                assert!(!self.has_room(self.leased(), capacity, need) && need <= capacity);
                assert_eq!((leases, leased), (self.leases.len(), self.leased().len()));
                assert_eq!(most_adapters, self.most);
            }
            Ok(Err(PoolError::Store { .. })) | Err(_) => {
                assert!(fate != Fate::Works && reached_the_sink);
                self.idle.drain(..gone.len());
                self.places.retain(|t, _| !gone.contains(t));
                assert!(!pool.is_resident(&loaded.digest), "nothing of a failed store stays");
                assert_eq!(pool.stats().leases, before.leases);
            }
        }
    }

    fn drop_lease(&mut self, index: prop::sample::Index) {
        if self.leases.is_empty() {
            return;
        }
        let (tag, lease) = self.leases.swap_remove(index.index(self.leases.len()));
        drop(lease);
        if self.leases.iter().any(|(t, _)| *t == tag) {
            return;
        }
        if self.leaving.contains(&tag) {
            self.leaving.retain(|t| *t != tag);
            self.places.remove(&tag);
        } else {
            self.idle.push(tag);
        }
    }

    fn let_go(&mut self, tag: u8) {
        if self.idle.contains(&tag) {
            self.idle.retain(|t| *t != tag);
            self.places.remove(&tag);
        } else if self.places.contains_key(&tag) && !self.leaving.contains(&tag) {
            self.leaving.push(tag);
        }
    }

    fn check(&self, pool: &DevicePool, memory: &Memory) {
        pool.check_integrity();
        let stats = pool.stats();
        assert!(stats.resident_bytes <= stats.budget_bytes);
        assert!(self.most.is_none_or(|most| stats.resident <= most.get()));
        assert_eq!(stats.resident, self.places.len());
        let residents: Vec<Digest> = self.places.keys().map(|tag| Digest([*tag; 32])).collect();
        assert_eq!(pool.monitor().residents(), residents);
        assert!(
            (0..16).all(|t| pool.monitor().is_resident(&Digest([t; 32])) == self.places.contains_key(&t))
        );
        assert_eq!(stats.leases, self.leases.len());
        assert_eq!(stats.leased, self.places.len() - self.idle.len());
        assert_eq!(stats.leased_bytes, self.leased().iter().map(|p| p.len * 4).sum::<usize>());
        assert_eq!(stats.resident_bytes, self.places.values().map(|p| p.len * 4).sum::<usize>());
        for (tag, place) in &self.places {
            assert!(
                memory.tags[place.offset..place.end()].iter().all(|t| *t == Some(*tag)),
                "a resident was overwritten"
            );
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Lease(u8, Fate),
    Drop(prop::sample::Index),
    Evict(u8),
    LetGo(u8),
    EvictIdle,
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![8 => Just(Fate::Works), 1 => Just(Fate::Fails), 1 => Just(Fate::Panics)];
    prop_oneof![
        6 => (0u8..16, fate).prop_map(|(tag, fate)| Step::Lease(tag, fate)),
        6 => any::<prop::sample::Index>().prop_map(Step::Drop),
        1 => (0u8..16).prop_map(Step::Evict),
        1 => (0u8..16).prop_map(Step::LetGo),
        1 => Just(Step::EvictIdle),
    ]
}

proptest! {
    #[test]
    fn leased_slots_are_never_written_and_the_least_recently_used_go_first(
        lines in 0usize..40,
        most in prop::option::of(1usize..7),
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let most = most.and_then(NonZeroUsize::new);
        let mut pool = DevicePool::with_most(lines * LINE_BYTES + 17, most, PoolMode::Copy);
        prop_assert_eq!(pool.capacity(), lines * LINE);
        let mut memory = Memory { tags: vec![None; lines * LINE], leased: vec![], next: (0, Fate::Works), stored: 0 };
        let mut model = Model { most, places: BTreeMap::new(), idle: vec![], leaving: vec![], leases: vec![] };
        for step in steps {
            match step {
                Step::Lease(tag, fate) => model.lease(&mut pool, &mut memory, tag, fate),
                Step::Drop(index) => model.drop_lease(index),
                Step::Evict(tag) => {
                    let went = pool.evict(&Digest([tag; 32]));
                    prop_assert_eq!(went, model.idle.contains(&tag), "only idle residents can be evicted");
                    if went {
                        model.places.remove(&tag);
                        model.idle.retain(|t| *t != tag);
                    }
                }
                Step::LetGo(tag) => {
                    pool.monitor().let_go(&Digest([tag; 32]));
                    model.let_go(tag);
                }
                Step::EvictIdle => {
                    prop_assert_eq!(pool.evict_idle(), model.idle.len());
                    for tag in model.idle.drain(..) {
                        model.places.remove(&tag);
                    }
                }
            }
            model.check(&pool, &memory);
        }
        model.leases.clear();
        model.places.retain(|tag, _| !model.leaving.contains(tag));
        prop_assert_eq!(pool.evict_idle(), model.places.len());
        let stats = pool.stats();
        prop_assert_eq!((stats.resident, stats.resident_bytes, stats.leases), (0, 0, 0));
        prop_assert_eq!(stats.evictions, stats.misses, "what was stored was evicted");
        pool.check_integrity();
    }
}

#[test]
fn residency_holds_the_host_values_only_when_they_are_aliased() {
    for (mode, kept) in [(PoolMode::Copy, 0), (PoolMode::Alias, 1)] {
        let mut pool = DevicePool::new(8 * LINE_BYTES, mode);
        let loaded = adapter(1, 2);
        let host = Arc::downgrade(&loaded.extent);
        let lease = pool.lease(&loaded, &mut NoCopy).expect("it fits");
        drop(loaded);
        assert!(host.upgrade().is_some(), "a lease holds the values it reads");
        drop(lease);
        assert_eq!(host.strong_count(), kept);
        pool.evict_idle();
        assert_eq!(host.strong_count(), 0);
    }
}

#[test]
fn an_aliased_resident_is_read_again_after_a_reload_of_the_same_content() {
    let mut pool = DevicePool::new(8 * LINE_BYTES, PoolMode::Alias);
    let (first, again) = (adapter(1, 2), adapter(1, 2));
    drop(pool.lease(&first, &mut NoCopy).expect("it fits"));
    let lease = pool.lease(&again, &mut NoCopy).expect("it is resident");
    assert!(Arc::ptr_eq(lease.extent(), &first.extent), "a second copy would not be counted");
}

#[test]
fn holes_matter_to_copies_and_not_to_aliases() {
    for (mode, fits) in [(PoolMode::Copy, false), (PoolMode::Alias, true)] {
        let mut pool = DevicePool::new(4 * LINE_BYTES, mode);
        let mut leases: Vec<Lease> =
            (0..4).map(|tag| pool.lease(&adapter(tag, 1), &mut NoCopy).expect("it fits")).collect();
        drop(leases.remove(2));
        drop(leases.remove(0));
        let wide = pool.lease(&adapter(9, 2), &mut NoCopy);
        assert_eq!(wide.is_ok(), fits, "{mode:?}");
        assert!(pool.stats().resident_bytes <= 4 * LINE_BYTES);
        if let Err(error) = wide {
            assert!(
                matches!(error, PoolError::AllLeased { reachable_bytes: LINE_BYTES, leases: 2, .. }),
                "{error}"
            );
            assert_eq!(pool.stats().evictions, 0);
        }
    }
}

#[test]
fn when_only_the_number_is_reached_the_least_recently_used_goes() {
    for mode in [PoolMode::Copy, PoolMode::Alias] {
        let mut pool = DevicePool::with_most(100 * LINE_BYTES, NonZeroUsize::new(2), mode);
        let mut lease = |tag| pool.lease(&adapter(tag, 1), &mut NoCopy);
        let held = lease(0).expect("it fits");
        for tag in [1, 2] {
            drop(lease(tag).expect("an idle one goes"));
        }
        let other = lease(3).expect("an idle one goes");
        let error = lease(4).expect_err("both are leased");
        assert!(matches!(error, PoolError::AllLeased { leased: 2, leases: 2, .. }), "{error}");
        assert!(error.to_string().contains("2 leases on 2 adapters of at most 2"), "{error}");
        let again = lease(0).expect("a resident needs no place");
        drop((held, other));
        drop(lease(4).expect("one is idle"));
        drop(again);
        assert_eq!(pool.monitor().residents(), [Digest([0; 32]), Digest([4; 32])]);
        assert_eq!((pool.stats().evictions, pool.stats().refusals), (3, 1));
        pool.check_integrity();
    }
}

#[test]
fn leases_are_given_back_from_any_thread_and_the_pool_may_go_first() {
    let mut pool = DevicePool::new(64 * LINE_BYTES, PoolMode::Copy);
    let monitor = pool.monitor();
    std::thread::scope(|scope| {
        for round in 0..200u8 {
            let lease = pool.lease(&adapter(round % 12, lines_of(round % 12)), &mut NoCopy).expect("it fits");
            scope.spawn(move || drop(lease));
        }
    });
    pool.check_integrity();
    assert_eq!(pool.stats().leases, 0);
    let last = pool.lease(&adapter(0, 1), &mut NoCopy).expect("it fits");
    drop(pool);
    assert_eq!(monitor.stats().leases, 1);
    drop(last);
    assert_eq!(monitor.stats().leases, 0);
}

#[test]
fn a_thread_that_panics_gives_its_leases_back() {
    let mut pool = DevicePool::new(8 * LINE_BYTES, PoolMode::Copy);
    let lease = pool.lease(&adapter(1, 2), &mut NoCopy).expect("it fits");
    let panicked = std::thread::spawn(move || {
        let _lease = lease;
        panic!("a kernel failed");
    });
    panicked.join().expect_err("it panicked");
    assert_eq!(pool.stats().leases, 0);
    assert!(pool.evict(&Digest([1; 32])), "it may go");
    pool.check_integrity();
}

#[test]
fn an_adapter_above_the_budget_is_too_large_with_both_sizes() {
    let mut pool = DevicePool::new(2 * LINE_BYTES, PoolMode::Alias);
    let loaded = adapter(3, 3);
    let error = pool.lease(&loaded, &mut NoCopy).expect_err("it is too large");
    let (needed_bytes, budget_bytes) = (3 * LINE_BYTES, 2 * LINE_BYTES);
    assert_eq!(error, PoolError::TooLarge { digest: loaded.digest, needed_bytes, budget_bytes });
}
