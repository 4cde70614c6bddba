//! Laws of the host cache: one load for many, bounds, pins, pauses.

mod made_adapter;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use made_adapter::adapter_of;
use polylora_adapters::{Digest, HostCache, HostCacheLimits, LoadedAdapter, MAX_PINS, PinError};

const NEVER: Duration = Duration::from_secs(3600);
const KIB: u64 = 1024;
type TestCache = HostCache<usize, String>;

fn bounded(bytes: u64, adapters: Option<usize>, pause: Duration) -> TestCache {
    let (first_pause, longest_pause) = (pause, pause);
    HostCache::new(HostCacheLimits { bytes, adapters, counts_packed: false, first_pause, longest_pause })
}

fn roomy() -> TestCache {
    bounded(1 << 20, None, NEVER)
}

fn adapter(key: usize, kib: usize) -> LoadedAdapter {
    adapter_of(key as u8, kib * 256)
}

fn get(cache: &TestCache, key: usize, kib: usize) -> LoadedAdapter {
    cache.get_or_load(&key, || Ok(adapter(key, kib))).expect("it loads")
}

fn kept(cache: &TestCache) -> Vec<usize> {
    (0..10).filter(|key| cache.contains(key)).collect()
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

/// Runs `meanwhile` while a load of key 1 that becomes `outcome` is on its way; returns what the load's caller got.
fn during_a_load(
    cache: &TestCache,
    outcome: Result<LoadedAdapter, String>,
    meanwhile: impl FnOnce(),
) -> Result<LoadedAdapter, Arc<String>> {
    let ((begun, has_begun), (go, may_go)) = (mpsc::channel(), mpsc::channel());
    // Moved in, so that a panic of `meanwhile` lets the load go.
    thread::scope(move |scope| {
        let loader = scope.spawn(move || {
            cache.get_or_load(&1, || {
                begun.send(()).expect("somebody listens");
                may_go.recv().expect("somebody lets it go");
                outcome
            })
        });
        has_begun.recv().expect("the load begins");
        meanwhile();
        go.send(()).expect("the load waits");
        loader.join().expect("no thread panics")
    })
}

#[test]
fn many_who_ask_at_once_cause_one_load_and_share_it() {
    let (cache, loads) = (roomy(), AtomicUsize::new(0));
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
    let (cache, loads) = (roomy(), AtomicUsize::new(0));
    let answers = ask_from_32(&cache, &loads, true);
    let first = answers[0].as_ref().expect_err("it fails");
    assert!(answers.iter().all(|a| a.as_ref().is_err_and(|e| Arc::ptr_eq(e, first) && **e == "broken")));
    assert_eq!(loads.into_inner(), 1);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.failed_loads, stats.hits), (1, 1, 0));
}

#[test]
fn a_failure_is_remembered_for_the_pause_and_then_tried_again() {
    for (pause, tried_again) in [(NEVER, false), (Duration::ZERO, true)] {
        let cache = bounded(1 << 20, None, pause);
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
fn forgetting_a_failure_ends_its_pause_and_drops_nothing_that_is_kept() {
    let cache = roomy();
    get(&cache, 2, 1);
    cache.get_or_load(&1, || Err("broken".to_owned())).expect_err("it fails");
    cache.forget_failure(&1);
    cache.forget_failure(&2);
    get(&cache, 1, 1);
    assert_eq!(kept(&cache), [1, 2]);
}

#[test]
fn the_capacity_holds_and_the_least_recently_used_goes_first() {
    let cache = bounded(10 * KIB, None, NEVER);
    for key in [1, 2, 3, 1, 4] {
        get(&cache, key, 3);
    }
    let stats = cache.stats();
    assert_eq!((stats.adapters, stats.bytes, stats.capacity_bytes), (3, 9 * KIB, 10 * KIB));
    assert_eq!(kept(&cache), [1, 3, 4]);
    assert_eq!(stats.evictions, 1);
    assert_eq!(get(&cache, 2, 3).digest, Digest([2; 32]), "what went is loaded again");
    assert_eq!(cache.stats().loads, 5);
}

#[test]
fn the_number_of_adapters_is_a_bound_of_its_own() {
    let cache = bounded(1 << 20, Some(2), NEVER);
    for key in [1, 2, 1, 3] {
        get(&cache, key, 1);
    }
    assert_eq!(kept(&cache), [1, 3]);
    let none = bounded(1 << 20, Some(0), NEVER);
    get(&none, 1, 1);
    assert!(kept(&none).is_empty());
}

#[test]
fn an_adapter_above_the_capacity_is_given_out_and_not_kept() {
    let cache = bounded(8 * KIB, None, NEVER);
    get(&cache, 1, 4);
    assert_eq!(get(&cache, 2, 9).extent.bytes(), 9 * 1024);
    let stats = cache.stats();
    assert_eq!((stats.adapters, stats.bytes), (1, 4096), "and pushes nobody out");
    assert_eq!(kept(&cache), [1]);
}

#[test]
fn asking_whether_it_is_kept_is_no_use_and_no_hit() {
    let cache = bounded(1 << 20, Some(2), NEVER);
    get(&cache, 1, 1);
    get(&cache, 2, 1);
    assert!(cache.contains(&1) && !cache.contains(&3));
    assert_eq!(cache.stats().hits, 0);
    get(&cache, 3, 1);
    assert_eq!(kept(&cache), [2, 3]);
    assert!(cache.get(&2).is_some() && cache.get(&1).is_none());
    assert_eq!(cache.stats().hits, 1);
    get(&cache, 4, 1);
    assert_eq!(kept(&cache), [2, 4], "an answer is a use");
}

#[test]
fn pinned_adapters_stay_and_others_take_what_they_leave() {
    let cache = bounded(4 * KIB, None, NEVER);
    cache.set_pinned(&1, true).expect("one pin");
    get(&cache, 1, 3);
    for key in [2, 3] {
        get(&cache, key, 1);
    }
    assert_eq!(get(&cache, 4, 2).digest, Digest([4; 32]), "given out");
    assert_eq!(kept(&cache), [1, 3], "what does not fit beside the pinned ones is not kept");
    assert_eq!(cache.stats().pinned, 1);
    cache.set_pinned(&5, true).expect("another");
    get(&cache, 5, 2);
    assert_eq!((kept(&cache), cache.stats().bytes), (vec![1, 5], 5 * KIB), "pins may exceed the capacity");
    cache.set_pinned(&1, false).expect("unpinning");
    assert_eq!(kept(&cache), [5], "unpinning enforces it again");
    assert_eq!((cache.stats().pinned, cache.stats().evictions), (1, 3));
}

#[test]
fn forgetting_drops_a_pinned_adapter_and_keeps_its_pin() {
    let cache = bounded(4 * KIB, None, NEVER);
    cache.set_pinned(&1, true).expect("one pin");
    get(&cache, 1, 1);
    cache.forget(&1);
    assert_eq!((kept(&cache), cache.stats().pinned), (vec![], 0));
    for key in [1, 2, 3] {
        get(&cache, key, 2);
    }
    assert_eq!(kept(&cache), [1, 3]);
}

#[test]
fn there_is_a_bound_on_pins() {
    let cache = roomy();
    for key in 0..MAX_PINS {
        cache.set_pinned(&key, true).expect("a pin");
    }
    assert_eq!(cache.set_pinned(&MAX_PINS, true), Err(PinError::TooMany { most: MAX_PINS }));
    assert_eq!(cache.set_pinned(&MAX_PINS, false), Ok(()));
}

#[test]
fn a_load_that_panics_leaves_the_next_one_free_to_load() {
    let cache = roomy();
    let broken = AssertUnwindSafe(|| cache.get_or_load(&1, || panic!("no answer")));
    assert!(catch_unwind(broken).is_err());
    assert!(!cache.is_loading(&1));
    assert_eq!(get(&cache, 1, 1).digest, Digest([1; 32]));
    assert_eq!((cache.stats().loads, cache.stats().failed_loads), (2, 1));
}

#[test]
fn one_who_waits_for_a_load_that_panics_loads_instead() {
    let (cache, (begun, has_begun)) = (roomy(), mpsc::channel());
    thread::scope(|scope| {
        let broken = scope.spawn(|| {
            cache.get_or_load(&1, || {
                begun.send(()).expect("somebody listens");
                thread::sleep(Duration::from_millis(50));
                panic!("no answer")
            })
        });
        has_begun.recv().expect("the load begins");
        let waiter = scope.spawn(|| get(&cache, 1, 1));
        assert!(broken.join().is_err());
        assert_eq!(waiter.join().expect("it does not panic").digest, Digest([1; 32]));
    });
    assert_eq!(kept(&cache), [1]);
}

#[test]
fn a_load_is_seen_by_others_while_it_runs() {
    let cache = roomy();
    during_a_load(&cache, Ok(adapter(1, 1)), || {
        assert!(cache.is_loading(&1) && !cache.is_loading(&2));
        assert!(cache.get(&1).is_none() && !cache.contains(&1), "and nobody waits who only asks");
        get(&cache, 2, 1);
    })
    .expect("it loads");
    assert!(!cache.is_loading(&1));
    assert_eq!(kept(&cache), [1, 2]);
}

#[test]
fn what_was_forgotten_while_it_was_read_is_given_out_and_not_kept() {
    let cache = roomy();
    let answer = during_a_load(&cache, Ok(adapter(1, 1)), || cache.forget(&1));
    assert_eq!(answer.expect("it loads").digest, Digest([1; 32]));
    assert!(kept(&cache).is_empty());
    let newer = during_a_load(&cache, Err("old files".to_owned()), || {
        cache.forget(&1);
        get(&cache, 1, 2);
    });
    newer.expect_err("its own load failed");
    assert_eq!(cache.get(&1).expect("the newer one").extent.bytes(), 2048, "the older load changes nothing");
}

#[test]
fn an_inserted_adapter_answers_and_ends_the_pause() {
    let cache = roomy();
    cache.get_or_load(&1, || Err("broken".to_owned())).expect_err("it fails");
    cache.insert(&1, adapter(1, 2));
    assert_eq!(get(&cache, 1, 9).extent.bytes(), 2048);
    cache.forget(&1);
    get(&cache, 1, 1);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.failed_loads, stats.hits), (2, 1, 1));
}

#[test]
fn loads_are_timed_whether_they_fail_or_not() {
    let cache = roomy();
    let slowly = |outcome: Result<LoadedAdapter, String>| {
        thread::sleep(Duration::from_millis(2));
        outcome
    };
    cache.get_or_load(&1, || slowly(Err("broken".to_owned()))).expect_err("it fails");
    let failed = cache.stats().load_micros;
    assert!(failed >= 2000);
    cache.get_or_load(&2, || slowly(Ok(adapter(2, 1)))).expect("it loads");
    assert!(cache.stats().load_micros >= failed + 2000);
}
