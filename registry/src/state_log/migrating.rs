//! Laws of migrations: of layouts that do not exist yet.

use redb::{ReadableTable, TableDefinition};
use tempfile::TempDir;

use super::*;

const TRACE: TableDefinition<'_, u64, &str> = TableDefinition::new("trace");
/// What a later layout may make of the events.
const OTHER_EVENTS: TableDefinition<'_, &str, &str> = TableDefinition::new("events");

fn to_two(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    trace(transaction, "to 2")
}

fn to_three(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    trace(transaction, "to 3")
}

fn fails(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    trace(transaction, "lost")?;
    Err(io::Error::other("no space left").into())
}

fn panics(_: &WriteTransaction) -> Result<(), redb::Error> {
    panic!("page 3 is not what it was")
}

/// Gives the events another type and back again: what was in them is gone, which this test does not mind.
fn renews_events(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.delete_table(OTHER_EVENTS)?;
    trace(transaction, "renewed")
}

fn trace(transaction: &WriteTransaction, what: &str) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(TRACE)?;
    let next = table.last()?.map_or(1, |(number, _)| number.value() + 1);
    table.insert(next, what)?;
    // A migration may read the number of the layout as well.
    assert!(transaction.open_table(META)?.get(SCHEMA_KEY)?.is_some());
    Ok(())
}

fn open(place: &TempDir, migrations: &[Migration], schema: u64) -> Result<(), StateError> {
    StateLog::open_with(place.path(), migrations, schema).map(drop)
}

/// The migrations that ran, the layout's number, and whether the events are of today's type.
fn inside(place: &TempDir) -> (Vec<String>, u64, bool) {
    let database = Database::create(place.path().join(REGISTRY_FILE)).unwrap();
    let transaction = database.begin_read().unwrap();
    let trace = transaction.open_table(TRACE).map_or_else(
        |_| vec![],
        |table| table.iter().unwrap().map(|row| row.unwrap().1.value().to_owned()).collect(),
    );
    let schema = transaction.open_table(META).unwrap().get(SCHEMA_KEY).unwrap().unwrap().value();
    (trace, schema, transaction.open_table(EVENTS).is_ok())
}

#[test]
fn migrations_run_once_each_and_in_order() {
    let place = TempDir::new().unwrap();
    open(&place, &[], 1).unwrap();
    for _ in 0..2 {
        open(&place, &[to_two, to_three], 3).unwrap();
        assert_eq!(inside(&place), (vec!["to 2".into(), "to 3".into()], 3, true));
    }
}

#[test]
fn a_migration_begins_at_the_layout_that_is_found() {
    let place = TempDir::new().unwrap();
    open(&place, &[], 1).unwrap();
    open(&place, &[to_two], 2).unwrap();
    // Were the first step taken again, this would fail.
    open(&place, &[fails, to_three], 3).unwrap();
    assert_eq!(inside(&place), (vec!["to 2".into(), "to 3".into()], 3, true));
}

#[test]
fn a_new_record_needs_no_migration() {
    let place = TempDir::new().unwrap();
    open(&place, &[fails, fails], 3).unwrap();
    assert_eq!(inside(&place), (vec![], 3, true));
}

#[test]
fn a_migration_that_fails_leaves_the_record_as_it_was() {
    let place = TempDir::new().unwrap();
    open(&place, &[], 1).unwrap();
    let error = open(&place, &[to_two, fails], 3).unwrap_err();
    assert!(matches!(error, StateError::Database { .. }), "{error:?}");
    assert_eq!(inside(&place), (vec![], 1, true), "not even the step that succeeded is kept");
    open(&place, &[], 1).unwrap();
}

#[test]
fn an_assertion_that_the_file_breaks_is_damage_and_takes_nothing_with_it() {
    let place = TempDir::new().unwrap();
    open(&place, &[], 1).unwrap();
    match open(&place, &[panics], 2).unwrap_err() {
        StateError::Damaged { reason, .. } => assert_eq!(reason, "page 3 is not what it was"),
        other => panic!("{other:?}"),
    }
    open(&place, &[], 1).expect("it is not held open, and as it was");
}

#[test]
fn a_migration_may_change_the_type_of_a_table() {
    let place = TempDir::new().unwrap();
    let database = Database::create(place.path().join(REGISTRY_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert(SCHEMA_KEY, 1).unwrap();
    transaction.open_table(OTHER_EVENTS).unwrap();
    transaction.commit().unwrap();
    drop(database);
    open(&place, &[renews_events], 2).unwrap();
    assert_eq!(inside(&place), (vec!["renewed".into()], 2, true));
}

#[test]
fn a_newer_layout_is_refused_by_its_number_whatever_its_tables_are() {
    let place = TempDir::new().unwrap();
    let database = Database::create(place.path().join(REGISTRY_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert(SCHEMA_KEY, 7).unwrap();
    transaction.open_table(OTHER_EVENTS).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = open(&place, &[to_two], 2).unwrap_err();
    assert!(matches!(error, StateError::Newer { found: 7, .. }), "{error:?}");
    assert_eq!(inside(&place), (vec![], 7, false), "a newer record is not touched");
}
