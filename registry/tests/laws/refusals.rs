//! What is refused, and that the reason says what to do; what a registry could not be brought back from among it.

use polylora_registry::{
    About, Activate, BasisPoints, Change, ChangeError, Event, MAX_NAMES, MAX_VERSIONS_OF_A_NAME, NewVersion,
    Registry, RegistryStore, Selector, Source, SplitKey, StoreError, VersionId,
};
use serde_json::Value;

use crate::makers::{
    NOW, content, digest, directory, folder, label, name, numbers, register, registry, sum_of,
};

fn refusal(registry: &Registry, change: Change) -> ChangeError {
    registry.plan(&change, NOW).expect_err("a change that is refused")
}

fn new(version: NewVersion) -> Change {
    Change::Register(Box::new(version))
}

fn retire(of: &str, id: Option<u64>) -> Change {
    Change::Retire { name: name(of), version: id.map(|id| Selector::Id(VersionId(id))), expect: None }
}

fn split(of: &str, id: u64, percent: f64) -> Change {
    let share = BasisPoints::from_percent(percent).expect("a share");
    Change::Split { name: name(of), candidate: Selector::Id(VersionId(id)), share, expect: None }
}

/// A value of so many lists in one another.
fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner]))
}

#[test]
fn figures_that_would_not_read_back_are_refused() {
    let registry = registry([register("law", 1)]);
    let id = VersionId(1);
    for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut about = About::default();
        about.thresholds.insert("yes".into(), wrong);
        let mut sum = sum_of(&[1]);
        let Source::Virtual { parts } = &mut sum else { unreachable!() };
        parts[0].weight = wrong as f32;
        for change in [
            new(NewVersion { about: about.clone(), ..content("law", 2) }),
            new(NewVersion { source: sum, ..content("law", 2) }),
            Change::Describe { id, about },
            Change::Probe { id, probe: vec![0.5, wrong as f32] },
        ] {
            let error = refusal(&registry, change);
            assert!(matches!(error, ChangeError::Unstorable { .. }), "{error:?}");
        }
    }
}

#[test]
fn what_is_said_reads_back_at_the_greatest_depth_that_is_taken() {
    let place = directory();
    let store = RegistryStore::open(place.path()).unwrap().0;
    store.change(register("law", 1), NOW).unwrap();
    let describe = |depth, tag: i32| {
        let mut about = About::default();
        about.custom.insert("deep".into(), nested(depth));
        about.training.insert("tag".into(), tag.into());
        Change::Describe { id: VersionId(1), about }
    };
    for depth in [65, 120, 128, 200] {
        let error = refusal(&store.read(), describe(depth, 0));
        assert!(matches!(error, ChangeError::Unstorable { .. }), "{error:?}");
    }
    // As an event, and so often that it is read from a snapshot, which is a level deeper.
    for tags in [0..1, 1..300] {
        store.change_all(|_| tags.map(|tag| describe(64, tag)).collect(), NOW).unwrap();
    }
    let was = store.read();
    drop(store);
    assert_eq!(RegistryStore::open(place.path()).unwrap().0.read(), was);
}

#[cfg(unix)]
#[test]
fn a_path_that_cannot_be_written_is_an_error_and_costs_nothing() {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};
    let place = directory();
    let store = RegistryStore::open(place.path()).unwrap().0;
    store.change(register("law", 1), NOW).unwrap();
    let Source::Folder { stamp, .. } = folder(2, 2) else { unreachable!() };
    let path = OsString::from_vec(b"/adapters/\xff".to_vec()).into();
    let version = NewVersion { source: Source::Folder { path, stamp }, ..content("law", 2) };
    let error = store.change(new(version), NOW).unwrap_err();
    assert!(matches!(error, StoreError::State(_)), "{error:?}");
    store.change(register("law", 3), NOW).expect("the next change is stored");
    drop(store);
    assert_eq!(numbers(RegistryStore::open(place.path()).unwrap().0.read().versions()), [1, 2]);
}

#[test]
fn the_next_label_is_never_one_that_is_taken() {
    let max = u64::MAX;
    for (highest, next) in [
        ("1.2.3".to_owned(), Some("1.2.4".to_owned())),
        ("1.2.3-rc.1".to_owned(), Some("1.2.4".to_owned())),
        (format!("1.2.{max}"), Some("1.3.0".to_owned())),
        (format!("1.{max}.{max}"), Some("2.0.0".to_owned())),
        (format!("{max}.{max}.{max}"), None),
    ] {
        let first = NewVersion { label: Some(label(&highest)), ..content("law", 1) };
        let before = registry([new(first.clone())]);
        match next {
            Some(next) => {
                let after = registry([new(first), register("law", 2)]);
                assert_eq!(
                    after.version(VersionId(2)).map(|version| version.label.clone()),
                    Some(label(&next))
                );
            }
            None => {
                let error = refusal(&before, register("law", 2));
                assert!(matches!(error, ChangeError::LabelTaken { .. }), "{error:?}");
            }
        }
    }
}

#[test]
fn a_label_means_one_content_and_a_content_has_one_label() {
    let registry = registry([register("law", 1)]);
    let other = NewVersion { label: Some(label("1.0.0")), ..content("law", 2) };
    let taken = ChangeError::LabelTaken { name: name("law"), label: label("1.0.0"), digest: digest(1) };
    assert_eq!(refusal(&registry, new(other)), taken);
    let renamed = NewVersion { label: Some(label("2.0.0")), ..content("law", 1) };
    let error = refusal(&registry, new(renamed));
    assert_eq!(error.to_string(), r#"adapter "law" has this content as version 1.0.0 already, not as 2.0.0"#);
}

#[test]
fn a_virtual_adapter_is_made_of_what_is_there_in_service_and_not_itself() {
    let sum = |tag, parts: &[u64]| NewVersion { source: sum_of(parts), ..content("law", tag) };
    let before = registry([register("law", 1), new(sum(2, &[1])), new(sum(3, &[2]))]);
    for tag in [2, 4] {
        let gone = ChangeError::UnknownId { id: VersionId(9) };
        assert_eq!(refusal(&before, new(sum(tag, &[1, 9]))), gone, "new or known");
    }
    for circle in [[2], [3]] {
        let error = refusal(&before, new(sum(2, &circle)));
        assert!(matches!(error, ChangeError::PartOf { .. }), "{error:?}");
    }
    let retired = registry([register("law", 1), new(sum(2, &[1])), retire("law", None)]);
    let error = refusal(&retired, new(sum(2, &[1])));
    assert!(matches!(error, ChangeError::NotServable { .. }), "its part comes back first: {error:?}");
    registry([
        register("law", 1),
        new(sum(2, &[1])),
        retire("law", None),
        register("law", 1),
        new(sum(2, &[1])),
    ]);
}

#[test]
fn only_what_is_answered_is_split() {
    let waiting = |tag| new(NewVersion { activate: Activate::Never, ..content("law", tag) });
    let idle = registry([waiting(1), waiting(2)]);
    assert_eq!(refusal(&idle, split("law", 1, 50.0)), ChangeError::Inactive { name: name("law") });
    let halved = registry([register("law", 1), waiting(2), split("law", 2, 50.0)]);
    for refused in [retire("law", Some(1)), retire("law", Some(2)), split("law", 1, 5.0)] {
        let error = refusal(&halved, refused);
        assert!(matches!(error, ChangeError::InService { .. }), "{error:?}");
    }
}

#[test]
fn a_client_stays_on_his_side_while_the_share_grows() {
    let waiting = new(NewVersion { activate: Activate::Never, ..content("law", 2) });
    let side = |percent| {
        let registry = registry([register("law", 1), waiting.clone(), split("law", 2, percent)]);
        let answers =
            |user| registry.resolve("law", Some(SplitKey::of(&format!("user {user}")))).unwrap().id.0;
        assert_eq!(registry.resolve("law", None).unwrap().id.0, 1, "who has no key is not in the test");
        (0..500).map(answers).collect::<Vec<_>>()
    };
    let sides = [0.0, 10.0, 50.0, 100.0].map(side);
    assert!(sides[0].iter().all(|id| *id == 1) && sides[3].iter().all(|id| *id == 2));
    assert!(sides[1].contains(&1) && sides[1].contains(&2));
    for (few, many) in sides.iter().zip(&sides[1..]) {
        assert!(few.iter().zip(many).all(|(before, after)| before <= after), "somebody went back");
    }
}

#[test]
fn a_name_has_a_bound_of_versions_and_a_registry_one_of_names() {
    let fill = |names: usize, versions: usize| {
        let mut registry = Registry::default();
        for (at, of) in (0..versions).flat_map(|at| (0..names).map(move |of| (at, of))) {
            let mut version = content(&format!("name {of}"), 0);
            version.digest.0[..8].copy_from_slice(&(at as u64).to_le_bytes());
            for event in registry.plan(&new(version), NOW).expect("it is not full") {
                registry.apply(&event).expect("it fits");
            }
        }
        registry
    };
    let many = fill(1, MAX_VERSIONS_OF_A_NAME);
    assert!(matches!(refusal(&many, register("name 0", 1)), ChangeError::Full { .. }));
    assert!(many.plan(&register("name 1", 1), NOW).is_ok(), "another name is not full");
    let many = fill(MAX_NAMES, 1);
    assert!(matches!(refusal(&many, register("another", 1)), ChangeError::Full { .. }));
    assert!(many.plan(&register("name 0", 1), NOW).is_ok(), "a name that is there takes more");
}

#[test]
fn an_event_that_does_not_fit_changes_nothing() {
    let bury = Change::Delete { name: name("gone"), version: None, is_buried: true, expect: None };
    let before = registry([register("law", 1), register("gone", 2), bury]);
    let (id, of) = (VersionId(2), name("gone"));
    let mut version = before.version(VersionId(1)).unwrap().as_ref().clone();
    version.id = VersionId(7);
    for event in [
        Event::Registered(Box::new(version)),
        // Its place is a grave's, which must stay one.
        Event::Moved { id, source: folder(2, 2) },
        Event::Deleted { id, is_buried: true, at: NOW },
        Event::Retired { name: of.clone(), at: NOW },
        Event::Pinned { name: of, is_pinned: true },
        Event::Described { id, about: About::default() },
        Event::Probed { id, probe: vec![] },
    ] {
        let mut after = before.clone();
        assert!(after.apply(&event).is_err(), "{event:?}");
        assert_eq!(after, before, "{event:?}");
    }
}

#[test]
fn a_group_that_is_refused_changes_nothing_and_does_not_hold_up_the_others() {
    let place = directory();
    let (store, _) = RegistryStore::open(place.path()).unwrap();
    let unknown = || Change::Rollback { name: name("nobody"), expect: None };
    let groups = || {
        vec![
            vec![register("law", 1)],
            vec![register("tax", 2), unknown()],
            vec![unknown(), register("tax", 3)],
            vec![register("art", 4), register("art", 5)],
        ]
    };
    let outcomes = store.change_groups(|_| groups(), NOW).unwrap();
    let counts: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().map(Vec::len).ok()).collect();
    assert_eq!(counts, [Some(2), None, None, Some(3)]);
    assert!(matches!(outcomes[1], Err(ChangeError::UnknownName { .. })));
    let was = store.read();
    assert!(was.alias("tax").is_none(), "nothing of a refused group has happened");
    assert_eq!(was.last_id(), VersionId(3), "nor was a number given for it");
    was.check_integrity();
    drop(store);
    assert_eq!(RegistryStore::open(place.path()).unwrap().0.read(), was);
}
