//! Laws of many who change one registry at once.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;

use polylora_registry::{
    Activate, Change, ChangeError, Event, Registry, RegistryStore, Selector, StoreError, VersionId,
};

use crate::makers::{NOW, content, digest, directory, name, register};

const THREADS: u8 = 8;

/// What each of the threads gives, which all begin at the same moment.
fn at_once<T: Send>(work: impl Fn(u8) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(usize::from(THREADS));
    let (start, work) = (&start, &work);
    thread::scope(|scope| {
        let begun: Vec<_> = (0..THREADS)
            .map(|at| {
                scope.spawn(move || {
                    start.wait();
                    work(at)
                })
            })
            .collect();
        begun.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    })
}

#[test]
fn whatever_was_acknowledged_to_any_thread_survives() {
    let place = directory();
    let store = RegistryStore::open(place.path()).unwrap().0;
    let registered = at_once(|thread| {
        let mut ids = vec![];
        for at in 0..12 {
            let events = store.change(register("law", thread * 12 + at), NOW).expect("it is registered");
            let Some(Event::Registered(version)) = events.first() else { panic!("{events:?}") };
            assert!(store.read().version(version.id).is_some(), "it is seen once it is acknowledged");
            ids.push((version.id, version.digest));
        }
        assert!(ids.is_sorted(), "one after the other");
        ids
    });
    let registered: Vec<_> = registered.into_iter().flatten().collect();
    let distinct: BTreeSet<_> = registered.iter().map(|(id, _)| *id).collect();
    assert_eq!(distinct.len(), usize::from(THREADS) * 12);
    drop(store);
    let store = RegistryStore::open(place.path()).unwrap().0;
    store.read().check_integrity();
    for (id, digest) in registered {
        assert_eq!(store.read().version(id).map(|version| version.digest), Some(digest));
    }
}

#[test]
fn of_all_who_saw_the_same_version_active_exactly_one_replaces_it() {
    let place = directory();
    let store = RegistryStore::open(place.path()).unwrap().0;
    for tag in 0..=THREADS {
        store.change(register("law", tag), NOW).unwrap();
    }
    for round in 0..20 {
        let active = store.read().resolve("law", None).unwrap().clone();
        // Everybody's target is another one, and nobody's is what is active.
        let targets: Vec<_> = (1..=u64::from(THREADS) + 1).filter(|id| *id != active.id.0).collect();
        let promoted = at_once(|thread| {
            let version = Some(Selector::Id(VersionId(targets[usize::from(thread)])));
            store.change(Change::Promote { name: name("law"), version, expect: Some(active.digest) }, NOW)
        });
        let winners: Vec<_> = (0..).zip(&promoted).filter(|(_, result)| result.is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {promoted:?}");
        let winner: usize = winners[0].0;
        let after = store.read().resolve("law", None).unwrap().clone();
        assert_eq!(after.id.0, targets[winner]);
        assert_eq!(after.previous, Some(active.id));
        for lost in promoted.iter().filter_map(|result| result.as_ref().err()) {
            let StoreError::Refused(ChangeError::Conflict { expected, found, .. }) = lost else {
                panic!("{lost:?}")
            };
            assert_eq!((*expected, found), (active.digest, &after.digest.to_hex()));
        }
    }
}

#[test]
fn the_same_content_at_once_is_one_version() {
    let store = RegistryStore::in_memory();
    let happened = at_once(|_| store.change(register("law", 7), NOW).expect("all are right"));
    assert_eq!(happened.iter().filter(|events| !events.is_empty()).count(), 1, "{happened:?}");
    assert_eq!(store.read().versions().count(), 1);
}

#[test]
fn several_changes_are_taken_in_as_one_or_not_at_all() {
    let store = RegistryStore::in_memory();
    let both = || {
        let new = |tag| Change::Register(Box::new(content("law", tag)));
        vec![new(1), Change::Pin { name: name("law"), is_pinned: true }]
    };
    let refused = || [both(), vec![Change::EndSplit { name: name("nobody"), expect: None }]].concat();
    at_once(|thread| match thread {
        0 => drop(store.change_all(|_| both(), NOW).expect("a change that is allowed")),
        _ => {
            let error = store.change_all(|_| refused(), NOW).expect_err("its last is not allowed");
            assert!(matches!(error, StoreError::Refused(ChangeError::UnknownName { .. })), "{error:?}");
            // Either nothing of the other thread's is seen, or all of it.
            let seen = store.read();
            assert!(seen.alias("law").is_none_or(|alias| alias.pinned && alias.active.is_some()));
        }
    });
    assert_eq!(store.read().alias("law").map(|alias| alias.versions.len()), Some(1));
}

#[test]
fn a_decision_is_made_on_what_it_is_carried_out_on() {
    let store = RegistryStore::in_memory();
    // Each takes the number after the highest as its content: were two to see the same registry, one would be missing.
    at_once(|_| {
        for _ in 0..10 {
            let next = |registry: &Registry| {
                let mut new = content("law", registry.last_id().0 as u8 + 1);
                new.activate = Activate::Now;
                vec![Change::Register(Box::new(new))]
            };
            store.change_all(next, NOW).expect("a new content");
        }
    });
    let registry = store.read();
    assert_eq!(registry.versions().count(), usize::from(THREADS) * 10);
    assert_eq!(registry.resolve("law", None).unwrap().digest, digest(THREADS * 10));
}
