//! Laws of the record on disk: what is in it is read, or named in an error; nothing is passed over.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use polylora_registry::{Change, Registry, RegistryStore, SCHEMA, StateError, Timestamp, Usage, VersionId};
use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};

use crate::makers::{NOW, content, directory, name, register};

const FILE: &str = "registry.redb";
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const SNAPSHOT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshot");
const USAGE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("usage");

fn open(place: &Path) -> RegistryStore {
    RegistryStore::open(place).expect("a record that is whole").0
}

/// Why it does not open.
fn refusal(place: &Path) -> StateError {
    RegistryStore::open(place).err().expect("a record that is refused")
}

/// `count` more versions, one change each, under seven names.
fn fill(store: &RegistryStore, count: u64) {
    let given = store.read().last_id().0;
    for at in given..given + count {
        let mut new = content(&format!("name {}", at % 7), 0);
        new.digest.0[..8].copy_from_slice(&at.to_le_bytes());
        store.change(Change::Register(Box::new(new)), NOW).expect("a new content");
    }
}

/// Works on the tables behind the registry's back.
fn inside<T>(place: &Path, work: impl FnOnce(&redb::WriteTransaction) -> T) -> T {
    let database = Database::open(place.join(FILE)).expect("a database");
    let transaction = database.begin_write().expect("a transaction");
    let result = work(&transaction);
    transaction.commit().expect("a commit");
    result
}

/// Numbers of records: events, snapshots.
fn lengths(place: &Path) -> (u64, u64) {
    let database = Database::open(place.join(FILE)).expect("a database");
    let transaction = database.begin_read().expect("a transaction");
    let events = transaction.open_table(EVENTS).expect("events").len().expect("a length");
    (events, transaction.open_table(SNAPSHOT).expect("snapshots").len().expect("a length"))
}

#[test]
fn many_events_become_one_snapshot_and_everything_reads_back() {
    let place = directory();
    // The events of 7 activations are among them: the snapshot comes with the 249th registration.
    for (count, expected) in [(248, (255, 0)), (1, (0, 1)), (10, (10, 1)), (300, (54, 1))] {
        let store = open(place.path());
        fill(&store, count);
        let was = store.read();
        drop(store);
        assert_eq!(lengths(place.path()), expected, "after {count} more");
        assert_eq!(open(place.path()).read(), was);
    }
}

#[test]
fn a_directory_is_made_when_it_is_not_there_and_refused_when_it_cannot_be() {
    let place = directory();
    let store = open(&place.path().join("a/b"));
    assert_eq!(*store.read(), Registry::default());
    fs::write(place.path().join("file"), b"").unwrap();
    let error = refusal(&place.path().join("file/state"));
    assert!(matches!(error, StateError::Directory { .. }), "{error:?}");
}

#[test]
fn a_record_is_open_once_at_a_time() {
    let place = directory();
    let store = open(place.path());
    let error = refusal(place.path());
    assert!(matches!(&error, StateError::InUse { path } if *path == place.path().join(FILE)), "{error:?}");
    store.change(register("law", 1), NOW).expect("the first one goes on");
    drop(store);
    assert_eq!(open(place.path()).read().versions().count(), 1);
}

#[test]
fn a_record_of_a_newer_program_is_refused_with_the_number() {
    let place = directory();
    drop(open(place.path()));
    inside(place.path(), |t| t.open_table(META).unwrap().insert("schema", SCHEMA + 1).map(drop).unwrap());
    let error = refusal(place.path());
    assert!(matches!(error, StateError::Newer { found, .. } if found == SCHEMA + 1), "{error:?}");
    assert!(error.to_string().contains(&format!("layout {}", SCHEMA + 1)), "{error}");
}

#[test]
fn a_damaged_record_is_refused_by_its_number_and_never_passed_over() {
    type Damage = fn(&redb::WriteTransaction);
    let damages: [(Damage, &str); 6] = [
        (|t| drop(t.open_table(EVENTS).unwrap().insert(3, &b"{\"registered\""[..]).unwrap()), "event 3"),
        (
            |t| drop(t.open_table(EVENTS).unwrap().insert(3, &b"{\"of the future\":1}"[..]).unwrap()),
            "event 3",
        ),
        (|t| drop(t.open_table(EVENTS).unwrap().remove(3).unwrap()), "event 4"),
        // Readable, and not what can have happened then.
        (
            |t| {
                drop(
                    t.open_table(EVENTS)
                        .unwrap()
                        .insert(4, &b"{\"deleted\":{\"id\":9,\"is_buried\":false,\"at\":1}}"[..])
                        .unwrap(),
                )
            },
            "event 4",
        ),
        (|t| drop(t.open_table(SNAPSHOT).unwrap().insert(2, &b"{}"[..]).unwrap()), "snapshot 2"),
        (|t| drop(t.open_table(USAGE).unwrap().insert(2, &b"?"[..]).unwrap()), "figures of version 2"),
    ];
    for (damage, expected) in damages {
        let place = directory();
        let store = open(place.path());
        fill(&store, 5);
        drop(store);
        inside(place.path(), damage);
        match refusal(place.path()) {
            StateError::Damaged { what, .. } => assert_eq!(what, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn figures_survive_and_those_of_what_is_gone_do_not() {
    let place = directory();
    let store = open(place.path());
    fill(&store, 3);
    let mut used = Usage::default();
    // More outcomes than 64 bits have: they are kept in 128.
    (0..150).for_each(|at| used.count(at % 3 > 0, 0.1 + at as f64 / 3.0, Timestamp(at)));
    let all: BTreeMap<_, _> = (1..=3).map(|id| (VersionId(id), used)).collect();
    store.write_usage(&all).unwrap();
    drop(store);
    let (store, read) = RegistryStore::open(place.path()).unwrap();
    assert_eq!(read, all);

    let delete = Change::Delete { name: name("name 1"), version: None, is_buried: false, expect: None };
    store.change(delete, NOW).unwrap();
    store.write_usage(&all).unwrap();
    drop(store);
    let left = RegistryStore::open(place.path()).unwrap().1;
    assert_eq!(left.into_keys().collect::<Vec<_>>(), [VersionId(1), VersionId(3)]);
}
