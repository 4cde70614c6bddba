//! Random histories with crashes, against the oracle.

use std::fs;

use polylora_registry::{
    Change, Phase, Registry, RegistryStore, Selector, SplitKey, StoreError, Timestamp, VersionId,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tempfile::TempDir;

use crate::answers::word;
use crate::changes::{self, Bytes, NAMES, SELECTORS};
use crate::makers::{directory, numbers, stamp};
use crate::oracle::Oracle;

#[derive(Clone, Debug)]
enum Step {
    One(Bytes),
    /// Several as one.
    All(Vec<Bytes>),
    /// So many that a second time makes a snapshot.
    Crowd,
    /// The process ends, another begins.
    Restart,
    /// The machine ends, and another one begins with what its disk has.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        16 => any::<Bytes>().prop_map(Step::One),
        2 => prop::collection::vec(any::<Bytes>(), 2..5).prop_map(Step::All),
        1 => Just(Step::Crowd),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

/// The real one and its oracle, side by side.
struct Pair {
    place: TempDir,
    store: RegistryStore,
    oracle: Oracle,
    now: Timestamp,
}

impl Pair {
    fn new() -> Self {
        let place = directory();
        let store = RegistryStore::open(place.path()).expect("a new record").0;
        Self { place, store, oracle: Oracle::default(), now: Timestamp(1) }
    }

    fn take(self, step: Step) -> Result<Self, TestCaseError> {
        match step {
            Step::One(bytes) => {
                let change = changes::change(bytes, &self.oracle);
                self.change(vec![change])
            }
            Step::All(many) => {
                let changes = many.into_iter().map(|bytes| changes::change(bytes, &self.oracle)).collect();
                self.change(changes)
            }
            Step::Crowd => {
                let newest = self.oracle.rows.last().map(|row| VersionId(row.id));
                let describe = |tag| newest.map(|id| Change::Describe { id, about: changes::said(tag) });
                let changes = (0..140).filter_map(describe).collect();
                self.change(changes)
            }
            Step::Restart => {
                let (before, place) = (self.store.read(), self.place);
                drop(self.store);
                let store = RegistryStore::open(place.path()).expect("what was closed opens").0;
                prop_assert_eq!(&store.read(), &before, "after a restart");
                Ok(Self { store, place, ..self })
            }
            Step::Crash => {
                let place = directory();
                let file = "registry.redb";
                fs::copy(self.place.path().join(file), place.path().join(file)).expect("a copy");
                let store = RegistryStore::open(place.path()).expect("a copy opens").0;
                prop_assert_eq!(&store.read(), &self.store.read(), "after a crash");
                Ok(Self { store, place, ..self })
            }
        }
    }

    fn change(mut self, changes: Vec<Change>) -> Result<Self, TestCaseError> {
        self.now.0 += 1;
        let before = self.store.read();
        let expected =
            changes.iter().try_fold(self.oracle.clone(), |now, change| now.after(change, self.now));
        match (self.store.change_all(|_| changes, self.now), expected) {
            (Ok(events), Ok(oracle)) => {
                let mut replayed = Registry::clone(&before);
                events.iter().try_for_each(|event| replayed.apply(event)).expect("what happened fits");
                prop_assert_eq!(&replayed, &*self.store.read(), "events are all that changes a registry");
                if events.is_empty() {
                    prop_assert_eq!(&oracle, &self.oracle, "no event, no change");
                }
                self.oracle = oracle;
            }
            (Err(StoreError::Refused(error)), Err(reasons)) => {
                let found = format!("{error:?}");
                let is_known = reasons.iter().any(|reason| found.starts_with(reason));
                prop_assert!(is_known, "{error}: expected one of {reasons:?}");
                prop_assert_eq!(&before, &self.store.read(), "what is refused changes nothing");
            }
            (found, expected) => {
                let expected = expected.map(drop);
                return Err(TestCaseError::fail(format!("found {found:?}, expected {expected:?}")));
            }
        }
        Ok(self)
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let registry = self.store.read();
        registry.check_integrity();
        let seen = Oracle::seen(&registry);
        prop_assert_eq!(&seen.names, &self.oracle.names);
        prop_assert_eq!(&seen.rows, &self.oracle.rows);
        prop_assert_eq!(seen.given, self.oracle.given, "numbers are given from 1, one after the other");
        for name in NAMES {
            let expected: Vec<_> = self.oracle.rows_of(name).map(|row| row.id).collect();
            prop_assert_eq!(numbers(registry.versions_of(name)), expected);
        }
        self.check_graves(&registry)?;
        self.check_answers(&registry)
    }

    fn check_graves(&self, registry: &Registry) -> Result<(), TestCaseError> {
        for (name, place, tag) in NAMES.iter().flat_map(|name| (0..18).map(move |at| (name, at / 6, at % 6)))
        {
            let (name, path) =
                (crate::makers::name(name), std::path::PathBuf::from(format!("/adapters/{place}")));
            let is_it =
                |grave: &(
                    String,
                    std::path::PathBuf,
                    polylora_registry::FilesStamp,
                    polylora_registry::Digest,
                )| { grave.0 == name.as_str() && grave.1 == path && grave.2 == stamp(tag) };
            let expected = self.oracle.graves.iter().any(is_it);
            let path = format!("/adapters/{place}").into();
            prop_assert_eq!(registry.is_buried(&name, &path, &stamp(tag)), expected);
        }
        Ok(())
    }

    fn check_answers(&self, registry: &Registry) -> Result<(), TestCaseError> {
        let plain = NAMES.iter().map(|name| (*name).to_owned());
        let with = |selector: &str| NAMES.map(|name| format!("{name}@{selector}"));
        let guessed = SELECTORS.iter().flat_map(|selector| with(selector));
        let right = self.oracle.rows.iter().flat_map(|row| {
            let digest = &row.digest.to_hex();
            [row.id.to_string(), row.label.to_string(), format!("sha256:{digest}")].map(|text| with(&text))
        });
        for model in plain.chain(guessed).chain(right.flatten()) {
            let keys = (0..4).map(|user| Some(SplitKey::of(&format!("user {user}"))));
            for key in keys.chain([None]) {
                let found = registry.resolve(&model, key);
                let expected = self.oracle.resolve(&model, key);
                prop_assert_eq!(
                    found.map(|version| version.id.0).map_err(|e| word(&e)),
                    expected,
                    "{}",
                    model
                );
            }
        }
        Ok(())
    }
}

/// Refusals are fine.
fn try_change(store: &RegistryStore, bytes: Bytes, now: Timestamp) {
    let change = changes::change(bytes, &Oracle::seen(&store.read()));
    let _ = store.change(change, now);
}

proptest! {
    // A step is a synced write: few long histories.
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn a_registry_does_what_plain_lists_do_whatever_ends_its_process(
        steps in prop::collection::vec(step(), 1..90),
    ) {
        let mut pair = Pair::new();
        for step in steps {
            pair = pair.take(step)?;
            pair.check()?;
        }
    }
}

proptest! {
    #[test]
    fn a_number_is_never_given_twice(steps in prop::collection::vec(any::<Bytes>(), 1..120)) {
        let store = RegistryStore::in_memory();
        let (mut highest, mut living) = (0, vec![]);
        for bytes in steps {
            try_change(&store, bytes, Timestamp(1));
            let now = numbers(store.read().versions());
            for born in now.iter().filter(|id| !living.contains(*id)) {
                prop_assert!(*born > highest, "{} after {}", born, highest);
                highest = *born;
            }
            living = now;
        }
    }

    #[test]
    fn whoever_rolls_back_sees_what_answered_before(steps in prop::collection::vec(any::<Bytes>(), 1..80)) {
        let store = RegistryStore::in_memory();
        let active = || store.read().alias("law").and_then(|alias| alias.active);
        for bytes in steps {
            let before = active();
            let ids = numbers(store.read().versions_of("law"));
            let target = ids.get(usize::from(bytes[2]) % (ids.len() + 1)).copied();
            let is_servable = |id| store.read().version(VersionId(id)).is_some_and(|v| v.phase != Phase::Retired);
            let may = target.is_some_and(is_servable);
            let (name, expect) = (crate::makers::name("law"), None);
            if let (Some(before), Some(target), true) = (before, target, may) && before.0 != target {
                let version = Some(Selector::Id(VersionId(target)));
                store.change(Change::Promote { name: name.clone(), version, expect }, Timestamp(1)).unwrap();
                prop_assert_eq!(active(), Some(VersionId(target)));
                store.change(Change::Rollback { name, expect }, Timestamp(2)).unwrap();
                prop_assert_eq!(active(), Some(before));
            }
            try_change(&store, bytes, Timestamp(3));
        }
    }
}
