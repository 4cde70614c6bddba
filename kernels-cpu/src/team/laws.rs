//! What holds of jobs, whoever takes their tasks.

use super::*;

#[test]
fn every_task_runs_once_whoever_takes_it() {
    for tasks in [0, 1, 2, 7, 1000] {
        let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..50 {
            for_each(tasks, |i| {
                runs[i].fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(runs.iter().all(|r| r.load(Ordering::Relaxed) == 50));
    }
}

#[test]
fn no_task_of_a_phase_begins_before_the_phase_before_is_done() {
    let check = |counts: [usize; 3]| {
        let done: [AtomicUsize; 3] = Default::default();
        let early = AtomicUsize::new(0);
        let run = |phase: usize| {
            let is_done = |(count, done): (&usize, &AtomicUsize)| done.load(Ordering::SeqCst) == *count;
            let before = counts[..phase].iter().zip(&done).all(is_done);
            early.fetch_add(usize::from(!before), Ordering::SeqCst);
            done[phase].fetch_add(1, Ordering::SeqCst);
        };
        for _ in 0..50 {
            done.iter().for_each(|d| d.store(0, Ordering::SeqCst));
            let runs: [&(dyn Fn(usize) + Sync); 3] = [&|_| run(0), &|_| run(1), &|_| run(2)];
            let phase = |i: usize| Phase { tasks: counts[i], run: runs[i] };
            in_phases(&[phase(0), phase(1), phase(2)]);
            assert_eq!(done.each_ref().map(|d| d.load(Ordering::SeqCst)), counts);
        }
        assert_eq!(early.into_inner(), 0, "{counts:?}");
    };
    let all = [[7, 30, 5], [0, 9, 1], [1, 0, 12], [3, 3, 0], [0, 0, 0], [1, 1, 1], [300, 1, 300]];
    // More threads than there may be cores: some come late, or are held up within.
    for threads in [1, 2, 5] {
        with_own_team(NonZeroUsize::new(threads).expect("some"), || all.into_iter().for_each(check));
    }
}

#[test]
fn after_a_panic_the_rest_of_the_first_phase_is_done_and_no_later_one() {
    let (first, later) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let fails = |i: usize| {
        assert_ne!(i, 3, "this task fails");
        first.fetch_add(1, Ordering::Relaxed);
    };
    let counts_later = |_| {
        later.fetch_add(1, Ordering::Relaxed);
    };
    let phases = [Phase { tasks: 8, run: &fails }, Phase { tasks: 5, run: &counts_later }];
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| in_phases(&phases)));
    assert!(result.is_err());
    let done = first.into_inner();
    // A machine of one thread does one task after the other and stops.
    assert_eq!((done, later.into_inner()), (if threads() > 1 { 7 } else { 3 }, 0));
}

#[test]
fn a_panic_in_a_later_phase_leaves_out_those_after_it_and_reaches_the_caller() {
    for _ in 0..50 {
        let (before, after) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let count = |count: &AtomicUsize| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let phases = [
            Phase { tasks: 5, run: &|_| count(&before) },
            Phase { tasks: 9, run: &|i| assert_ne!(i, 2, "this task fails") },
            Phase { tasks: 5, run: &|_| count(&after) },
        ];
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| in_phases(&phases)));
        let said = result.expect_err("a panic");
        assert!(said.downcast_ref::<String>().is_some_and(|said| said.contains("this task fails")));
        assert_eq!((before.into_inner(), after.into_inner()), (5, 0));
    }
}

#[test]
fn jobs_of_several_leaders_and_jobs_within_tasks_end() {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let total = AtomicUsize::new(0);
                    for_each(5, |_| {
                        assert_eq!(threads(), 1);
                        for_each(3, |i| {
                            total.fetch_add(i, Ordering::Relaxed);
                        });
                    });
                    assert_eq!(total.into_inner(), 15);
                }
            });
        }
    });
}

/// Counts up, and waits for others who do until there are `all` of them or a minute has gone.
fn meet(met: &AtomicUsize, all: usize) -> bool {
    met.fetch_add(1, Ordering::SeqCst);
    let began = Instant::now();
    while met.load(Ordering::SeqCst) < all && began.elapsed() < Duration::from_secs(60) {
        thread::yield_now();
    }
    met.load(Ordering::SeqCst) >= all
}

#[test]
fn leaders_with_teams_of_their_own_do_not_take_each_others_helpers() {
    let (met, alone) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let common = threads();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                with_own_team(NonZeroUsize::new(2).expect("two"), || {
                    assert_eq!(threads(), 2);
                    // Six tasks that wait for each other: no thread has two of them.
                    for_each(2, |_| {
                        alone.fetch_add(usize::from(!meet(&met, 6)), Ordering::SeqCst);
                    });
                });
                assert_eq!(threads(), common);
            });
        }
    });
    assert_eq!((met.into_inner(), alone.into_inner()), (6, 0));
}

#[test]
fn a_team_of_ones_own_ends_with_its_helpers_whatever_happens_within() {
    for round in 0..20 {
        let shared = std::panic::catch_unwind(|| {
            with_own_team(NonZeroUsize::new(3).expect("three"), || {
                for_each(round % 5, |_| {});
                let shared = OWN.with_borrow(|own| Arc::downgrade(&own.as_ref().expect("own").shared));
                assert!(round % 2 == 0, "every other round fails");
                shared
            })
        });
        // Whoever still helped would hold what the team shares.
        assert!(shared.is_ok_and(|shared| shared.upgrade().is_none()) == (round % 2 == 0));
        assert!(OWN.with_borrow(Option::is_none));
    }
}

#[test]
fn a_panicking_task_panics_the_caller_and_spares_the_team() {
    let done = AtomicUsize::new(0);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for_each(8, |i| {
            assert_ne!(i, 3, "this task fails");
            done.fetch_add(1, Ordering::Relaxed);
        });
    }));
    let said = result.expect_err("a panic");
    assert!(said.downcast_ref::<String>().is_some_and(|said| said.contains("this task fails")));
    assert_eq!(done.into_inner(), 7);
    for_each(8, |_| {});
    let alone = with_threads(NonZeroUsize::MIN, threads);
    assert_eq!(alone, 1);
}

/// A panic whose payload panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(thread::panicking(), "the payload fails too");
    }
}

#[test]
fn payloads_that_panic_when_dropped_neither_hang_nor_end_the_team() {
    for _ in 0..20 {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for_each(6, |_| std::panic::panic_any(Bomb));
        }));
        std::mem::forget(result.expect_err("a panic"));
    }
    let total = AtomicUsize::new(0);
    for_each(50, |i| {
        total.fetch_add(i, Ordering::Relaxed);
    });
    assert_eq!(total.into_inner(), 1225);
}
