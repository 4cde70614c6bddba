//! Laws of leases under a model checker: loom runs each model in every order in which its threads can take the lock.
//!
//! The pool, its leases and its books are compiled here once more, from the same files, with loom's lock in the place
//! of parking_lot's. Each line of the device's memory is a cell of loom's, which fails a model when a line is written
//! without being ordered after every read of it, or read without being ordered after what was written.

#[expect(dead_code, reason = "not every door of the pool is used here")]
#[path = "../src/lease.rs"]
mod lease;
mod made_adapter;
#[expect(dead_code, reason = "not every door of the pool is used here")]
#[path = "../src/pool.rs"]
mod pool;
#[path = "../src/residency.rs"]
mod residency;
#[path = "../src/tier_figures.rs"]
mod tier_figures;

/// What `src/sync.rs` is to the crate.
mod sync {
    /// loom's lock with parking_lot's face.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().expect("nobody panics with the lock")
        }
    }
}

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use loom::{cell::UnsafeCell, thread};
use polylora_adapters::{Arena, Digest, Extent, LoadedAdapter};
use polylora_kernels::extent::HostExtent;

use lease::Lease;
use made_adapter::adapter_of;
use pool::{DevicePool, ExtentSink, PoolError, PoolMode, PoolMonitor, StoreError};
use tier_figures::TierFigures;

const LINE: usize = 16;
const LINE_BYTES: usize = LINE * 4;

/// Adapter number `tag`, of `lines` lines of 64 bytes.
fn adapter(tag: u8, lines: usize) -> LoadedAdapter {
    adapter_of(tag, lines * LINE)
}

/// 64 bytes of the device.
struct Line {
    /// Judges the order of accesses; its value does not matter.
    accesses: UnsafeCell<()>,
    /// Whose values it has.
    tag: Cell<u8>,
}

/// The device's memory, which its readers share with the sink. An `Rc`, since loom's threads take turns on one thread,
/// and sharing must not order anything.
#[derive(Clone)]
struct Memory {
    lines: Rc<[Line]>,
    /// The adapter that the next store is of, and whether it fails.
    next: (u8, bool),
}

impl Memory {
    fn new(lines: usize) -> Self {
        let line = || Line { accesses: UnsafeCell::new(()), tag: Cell::new(0) };
        Self { lines: (0..lines).map(|_| line()).collect(), next: (0, false) }
    }

    /// The owner's way to a lease.
    fn lease(&mut self, pool: &mut DevicePool, tag: u8, lines: usize) -> Result<Lease, PoolError> {
        self.next.0 = tag;
        let lease = pool.lease(&adapter(tag, lines), self);
        pool.check_integrity();
        lease
    }

    /// What a kernel does with a lease.
    fn read(&self, lease: &Lease) {
        for line in &self.lines[lease.place().offset / LINE..lease.place().end() / LINE] {
            line.accesses.with(|_| ());
            assert_eq!(line.tag.get(), lease.digest().0[0], "another adapter's values");
        }
    }

    /// A thread that reads once and gives the lease back.
    fn reader(&self, lease: Lease) -> thread::JoinHandle<()> {
        let memory = self.clone();
        thread::spawn(move || {
            memory.read(&lease);
            drop(lease);
        })
    }
}

impl ExtentSink for Memory {
    fn store(&mut self, offset: usize, extent: &Arc<HostExtent>) -> Result<(), StoreError> {
        let (tag, fails) = self.next;
        for line in &self.lines[offset / LINE..(offset + extent.values().len()) / LINE] {
            line.accesses.with_mut(|_| ());
            line.tag.set(tag);
        }
        if fails { Err(StoreError { reason: "the device is full".into() }) } else { Ok(()) }
    }
}

/// A device that gives a lease back, and looks at the books, before it takes an extent.
struct Returning {
    memory: Memory,
    lease: Option<Lease>,
    monitor: PoolMonitor,
}

impl ExtentSink for Returning {
    fn store(&mut self, offset: usize, extent: &Arc<HostExtent>) -> Result<(), StoreError> {
        drop(self.lease.take());
        assert_eq!(self.monitor.stats().leases, 0, "the lease is back, the next one is not out");
        self.memory.store(offset, extent)
    }
}

/// A thread that lets adapter `tag` go.
fn letting_go(pool: &DevicePool, tag: u8) -> thread::JoinHandle<()> {
    let monitor = pool.monitor();
    thread::spawn(move || monitor.let_go(&Digest([tag; 32])))
}

/// How often a model went one way and the other: one that goes only one way shows nothing.
#[derive(Clone, Default)]
struct Ways(Arc<[AtomicUsize; 2]>);

impl Ways {
    fn note(&self, way: bool) {
        self.0[usize::from(way)].fetch_add(1, Relaxed);
    }
}

/// Runs a model in all its orders; it notes which way it went, and must have gone both.
fn in_both_ways(model: impl Fn(&Ways) + Send + Sync + 'static) {
    let ways = Ways::default();
    let seen = ways.clone();
    loom::model(move || model(&seen));
    let [no, yes] = &*ways.0;
    assert!(no.load(Relaxed) > 0 && yes.load(Relaxed) > 0, "the orders were not explored");
}

fn join_all(readers: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for reader in readers {
        reader.join().expect("a reader");
    }
}

/// All is given back, and everybody fits again.
fn assert_whole(mut pool: DevicePool, mut memory: Memory) {
    pool.check_integrity();
    let stats = pool.stats();
    assert_eq!((stats.leases, stats.leased, stats.leased_bytes), (0, 0, 0), "a release was lost");
    let all = memory.lines.len();
    let lease = memory.lease(&mut pool, 99, all).expect("everything else can go");
    memory.read(&lease);
    drop(lease);
    assert_eq!(pool.evict_idle(), 1);
    assert_eq!(pool.stats().resident_bytes, 0, "a place was lost");
    pool.check_integrity();
}

#[test]
fn a_place_is_written_only_after_its_last_reader_gave_it_back() {
    in_both_ways(|seen| {
        let (mut pool, mut memory) = (DevicePool::new(2 * LINE_BYTES, PoolMode::Copy), Memory::new(2));
        let readers = [(); 2].map(|()| {
            let lease = memory.lease(&mut pool, 1, 1).expect("it fits");
            memory.reader(lease)
        });
        let wide = memory.lease(&mut pool, 2, 2);
        seen.note(wide.is_ok());
        match &wide {
            Ok(lease) => memory.read(lease),
            Err(error) => assert!(matches!(error, PoolError::AllLeased { leases: 1..=2, leased: 1, .. })),
        }
        drop(wide);
        join_all(readers);
        assert_whole(pool, memory);
    });
}

#[test]
fn a_resident_that_is_leased_again_while_it_is_given_back_stays() {
    in_both_ways(|seen| {
        let (mut pool, mut memory) = (DevicePool::new(LINE_BYTES, PoolMode::Copy), Memory::new(1));
        let lease = memory.lease(&mut pool, 1, 1).expect("it fits");
        let reader = memory.reader(lease);
        let went = pool.evict(&Digest([1; 32]));
        seen.note(went);
        let again = memory.lease(&mut pool, 1, 1).expect("it is resident, or its place is free");
        assert_eq!((pool.stats().hits, pool.stats().misses), if went { (0, 2) } else { (1, 1) });
        memory.lease(&mut pool, 2, 1).expect_err("the only place is leased");
        assert!(!pool.evict(&Digest([1; 32])), "a leased one does not go");
        memory.read(&again);
        reader.join().expect("a reader");
        memory.read(&again);
        drop(again);
        assert_whole(pool, memory);
    });
}

#[test]
fn the_number_of_residents_holds_while_leases_are_given_back() {
    in_both_ways(|seen| {
        let most = NonZeroUsize::new(2);
        let mut pool = DevicePool::with_most(8 * LINE_BYTES, most, PoolMode::Copy);
        let mut memory = Memory::new(8);
        let readers = [1, 2].map(|tag| {
            let lease = memory.lease(&mut pool, tag, 1).expect("it fits");
            memory.reader(lease)
        });
        let third = memory.lease(&mut pool, 3, 1);
        seen.note(third.is_ok());
        assert_eq!(pool.monitor().residents().len(), 2);
        assert_eq!(third.is_ok(), pool.monitor().is_resident(&Digest([3; 32])));
        drop(third);
        join_all(readers);
        assert_whole(pool, memory);
    });
}

#[test]
fn a_store_that_fails_gives_its_place_back_whatever_is_given_back_meanwhile() {
    in_both_ways(|seen| {
        let (mut pool, mut memory) = (DevicePool::new(2 * LINE_BYTES, PoolMode::Copy), Memory::new(2));
        let readers = [1, 2].map(|tag| {
            let lease = memory.lease(&mut pool, tag, 1).expect("it fits");
            memory.reader(lease)
        });
        memory.next.1 = true;
        let error = memory.lease(&mut pool, 3, 1).expect_err("the device is full, or leased");
        memory.next.1 = false;
        seen.note(matches!(error, PoolError::Store { .. }));
        assert!(!pool.is_resident(&Digest([3; 32])));
        join_all(readers);
        assert_whole(pool, memory);
    });
}

#[test]
fn an_adapter_that_others_let_go_is_gone_after_its_last_lease_and_not_before() {
    in_both_ways(|seen| {
        let (mut pool, mut memory) = (DevicePool::new(LINE_BYTES, PoolMode::Copy), Memory::new(1));
        let lease = memory.lease(&mut pool, 1, 1).expect("it fits");
        let reader = memory.reader(lease);
        let other = letting_go(&pool, 1);
        let next = memory.lease(&mut pool, 2, 1);
        seen.note(next.is_ok());
        drop(next);
        reader.join().expect("a reader");
        other.join().expect("another thread");
        assert!(!pool.is_resident(&Digest([1; 32])));
        assert_whole(pool, memory);
    });
}

#[test]
fn a_resident_that_is_leased_while_others_let_it_go_is_leased_whole_or_stored_anew() {
    in_both_ways(|seen| {
        let (mut pool, mut memory) = (DevicePool::new(LINE_BYTES, PoolMode::Copy), Memory::new(1));
        drop(memory.lease(&mut pool, 1, 1).expect("it fits"));
        let other = letting_go(&pool, 1);
        let lease = memory.lease(&mut pool, 1, 1).expect("it is resident, or its place is free");
        let was_there = pool.stats().hits == 1;
        seen.note(was_there);
        memory.lease(&mut pool, 2, 1).expect_err("the only place is leased");
        other.join().expect("another thread");
        assert!(pool.is_resident(&Digest([1; 32])) && pool.stats().leases == 1);
        memory.read(&lease);
        drop(lease);
        // Who leased it first had it let go afterwards.
        assert_eq!(pool.is_resident(&Digest([1; 32])), !was_there);
        assert_whole(pool, memory);
    });
}

#[test]
fn an_adapter_that_others_let_go_while_it_is_stored_is_there_for_its_first_lease() {
    in_both_ways(|seen| {
        let (mut pool, mut memory) = (DevicePool::new(LINE_BYTES, PoolMode::Copy), Memory::new(1));
        let other = letting_go(&pool, 1);
        let lease = memory.lease(&mut pool, 1, 1).expect("it fits");
        other.join().expect("another thread");
        memory.lease(&mut pool, 2, 1).expect_err("the only place is leased");
        memory.read(&lease);
        drop(lease);
        seen.note(pool.is_resident(&Digest([1; 32])));
        assert_whole(pool, memory);
    });
}

#[test]
fn an_adapter_that_was_let_go_waits_for_the_last_of_its_leases() {
    in_both_ways(|seen| {
        let (mut pool, mut memory) = (DevicePool::new(LINE_BYTES, PoolMode::Copy), Memory::new(1));
        let [first, second] = [(); 2].map(|()| memory.lease(&mut pool, 1, 1).expect("it fits"));
        pool.monitor().let_go(&Digest([1; 32]));
        let reader = memory.reader(first);
        memory.read(&second);
        drop(second);
        seen.note(pool.is_resident(&Digest([1; 32])));
        reader.join().expect("a reader");
        assert!(!pool.is_resident(&Digest([1; 32])));
        assert_whole(pool, memory);
    });
}

#[test]
fn an_adapter_that_was_let_go_and_is_leased_anew_stays() {
    in_both_ways(|seen| {
        let (mut pool, mut memory) = (DevicePool::new(LINE_BYTES, PoolMode::Copy), Memory::new(1));
        let lease = memory.lease(&mut pool, 1, 1).expect("it fits");
        pool.monitor().let_go(&Digest([1; 32]));
        let reader = memory.reader(lease);
        let again = memory.lease(&mut pool, 1, 1).expect("it is resident, or its place is free");
        seen.note(pool.stats().hits == 1);
        reader.join().expect("a reader");
        memory.read(&again);
        drop(again);
        assert!(pool.is_resident(&Digest([1; 32])), "whoever asked for it later wants it");
        assert_whole(pool, memory);
    });
}

#[test]
fn a_lease_is_given_back_although_somebody_else_has_the_lock() {
    loom::model(|| {
        let (mut pool, mut memory) = (DevicePool::new(LINE_BYTES, PoolMode::Copy), Memory::new(1));
        let lease = memory.lease(&mut pool, 1, 1).expect("it fits");
        let reader = memory.reader(lease);
        // With the lock in hand, the reader's turn comes.
        pool.monitor().keep_figures_of(|_| {
            thread::yield_now();
            true
        });
        reader.join().expect("a reader");
        assert_whole(pool, memory);
    });
}

#[test]
fn a_device_may_give_leases_back_and_read_the_books_while_it_stores() {
    loom::model(|| {
        let (mut pool, mut memory) = (DevicePool::new(2 * LINE_BYTES, PoolMode::Copy), Memory::new(2));
        let lease = Some(memory.lease(&mut pool, 1, 1).expect("it fits"));
        let mut device = Returning { memory: memory.clone(), lease, monitor: pool.monitor() };
        device.memory.next.0 = 2;
        let second = pool.lease(&adapter(2, 1), &mut device).expect("it fits");
        memory.read(&second);
        drop(second);
        assert_whole(pool, memory);
    });
}

#[test]
fn others_see_whole_books_and_the_pool_may_go_before_its_leases() {
    in_both_ways(|seen| {
        let (mut pool, mut memory) = (DevicePool::new(2 * LINE_BYTES, PoolMode::Alias), Memory::new(2));
        let monitor = pool.monitor();
        let reader = {
            let lease = memory.lease(&mut pool, 1, 1).expect("it fits");
            memory.reader(lease)
        };
        let watcher = thread::spawn({
            let (monitor, seen) = (monitor.clone(), seen.clone());
            move || {
                let stats = monitor.stats();
                seen.note(stats.leased == 1);
                assert_eq!((stats.leases, stats.leased_bytes), (stats.leased, stats.leased * LINE_BYTES));
                assert_eq!(stats.resident as u64, stats.misses - stats.evictions);
            }
        });
        pool.evict_idle();
        watcher.join().expect("a watcher");
        drop(pool);
        reader.join().expect("a reader");
        assert!(!monitor.is_alive() && monitor.stats().leases == 0);
    });
}
