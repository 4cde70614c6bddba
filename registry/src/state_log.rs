//! The record of events in a database file: appended and synced, then now and then replaced by a snapshot.
//!
//! The file is redb's, which syncs each commit and recovers the last one after a crash at any point. Left to itself it
//! trusts a file that was closed, so every page is checked against its checksum when the record is opened. Tables: `meta`
//! with the version of this layout, `events` by number, `snapshot` with the registry after the event of its number, `usage`
//! by version. Values are JSON, so that a field can be added without a new layout.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;

use crate::{Event, Inconsistent, Registry, Usage, VersionId};

/// Version of the layout that this program writes.
pub const SCHEMA: u64 = 1;

/// Events after which the registry is written as a whole.
const EVENTS_A_SNAPSHOT: u64 = 256;
/// The registry's file in its state directory.
pub const REGISTRY_FILE: &str = "registry.redb";
const SCHEMA_KEY: &str = "schema";

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const SNAPSHOT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshot");
const USAGE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("usage");

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory cannot be made.
    #[error("the state directory {} cannot be made (--state-dir)", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("the state in {} is in use by another process: ask the server that runs, or give it another --state-dir", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error("the state in {} has layout {found}, this program knows up to {SCHEMA}: use a newer one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u64,
    },
    /// A record cannot be read.
    #[error("the state in {} is damaged at {what}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The record.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The database failed.
    #[error("the state in {} cannot be read or written", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: Box<redb::Error>,
    },
}

/// The record, open for appending.
pub struct StateLog {
    /// `None` for a record that ends with the process.
    file: Option<LogFile>,
    /// Number of the last event.
    last: u64,
    /// Events since the last snapshot.
    since_snapshot: u64,
}

struct LogFile {
    path: PathBuf,
    database: Database,
}

/// A migration from one layout to the next.
type Migration = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// The n-th of them leads from layout n + 1 to layout n + 2.
const MIGRATIONS: [Migration; SCHEMA as usize - 1] = [];

impl StateLog {
    /// Opens or makes the record in `directory`; gives the registry that it comes to, and the versions' figures.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(directory: &Path) -> Result<(Self, Registry, BTreeMap<VersionId, Usage>), StateError> {
        Self::open_with(directory, &MIGRATIONS, SCHEMA)
    }

    /// A record that ends with the process.
    pub fn in_memory() -> Self {
        Self { file: None, last: 0, since_snapshot: 0 }
    }

    /// Writes events and syncs: when this returns, they survive.
    ///
    /// # Errors
    /// [`StateError`]; none of them is written then.
    pub fn append(&mut self, events: &[Event]) -> Result<(), StateError> {
        let count = events.len() as u64;
        if let Some(file) = &self.file {
            file.write(|transaction| {
                let mut table = transaction.open_table(EVENTS)?;
                for (number, event) in (self.last + 1..).zip(events) {
                    table.insert(number, json(event)?.as_slice())?;
                }
                Ok(())
            })?;
        }
        self.last += count;
        self.since_snapshot += count;
        Ok(())
    }

    /// Writes the registry as a whole in place of the events so far, when there are many. A failure costs nothing but
    /// time at the next start.
    pub fn shorten(&mut self, registry: &Registry) {
        if self.since_snapshot < EVENTS_A_SNAPSHOT {
            return;
        }
        let Some(file) = &self.file else { return };
        let written = file.write(|transaction| {
            let mut snapshot = transaction.open_table(SNAPSHOT)?;
            snapshot.retain(|_, _| false)?;
            snapshot.insert(self.last, json(registry)?.as_slice())?;
            transaction.open_table(EVENTS)?.retain(|_, _| false)?;
            Ok(())
        });
        if written.is_ok() {
            self.since_snapshot = 0;
        }
    }

    /// Replaces all figures.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn write_usage(&mut self, usage: &BTreeMap<VersionId, Usage>) -> Result<(), StateError> {
        let Some(file) = &self.file else { return Ok(()) };
        file.write(|transaction| {
            let mut table = transaction.open_table(USAGE)?;
            table.retain(|id, _| usage.contains_key(&VersionId(id)))?;
            for (id, usage) in usage {
                table.insert(id.0, json(usage)?.as_slice())?;
            }
            Ok(())
        })
    }

    fn open_with(
        directory: &Path,
        migrations: &[Migration],
        schema: u64,
    ) -> Result<(Self, Registry, BTreeMap<VersionId, Usage>), StateError> {
        let no_directory = |source| StateError::Directory { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(no_directory)?;
        let path = directory.join(REGISTRY_FILE);
        // The database asserts what holds in every file that it wrote: in one that is damaged it may not.
        let opened = panic::catch_unwind(AssertUnwindSafe(|| {
            let file = LogFile::open(path.clone())?;
            file.migrate(migrations, schema)?;
            let (last, since_snapshot, registry) = file.replay()?;
            let usage = file.usage()?;
            Ok((Self { file: Some(file), last, since_snapshot }, registry, usage))
        }));
        opened.unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or(panic.downcast_ref::<&str>().copied());
            Err(damaged_file(path, words.unwrap_or("its reader gave up")))
        })
    }
}

/// Damage that no single record can be blamed for.
fn damaged_file(path: PathBuf, reason: impl ToString) -> StateError {
    StateError::Damaged { path, what: "the file itself".into(), reason: reason.to_string() }
}

impl LogFile {
    /// Every page is checked against its checksum: bits rot in files that were closed, too.
    fn open(path: PathBuf) -> Result<Self, StateError> {
        match Database::builder().set_check_integrity_on_open(true).create(&path) {
            Ok(database) => Ok(Self { path, database }),
            Err(DatabaseError::DatabaseAlreadyOpen) => Err(StateError::InUse { path }),
            Err(other) => Err(failed(path, other.into())),
        }
    }

    /// Brings the layout up to `schema`, all of it or nothing.
    fn migrate(&self, migrations: &[Migration], schema: u64) -> Result<(), StateError> {
        let mut found = schema;
        self.write(|transaction| {
            let written = transaction.open_table(META)?.get(SCHEMA_KEY)?.map(|schema| schema.value());
            found = written.unwrap_or(schema);
            if found > schema {
                // What its tables are like is not known here: none is touched.
                return Ok(());
            }
            let steps =
                migrations.iter().skip(usize::try_from(found).unwrap_or(usize::MAX).saturating_sub(1));
            steps.take((schema - found) as usize).try_for_each(|step| step(transaction))?;
            // All tables are there, so that reading needs no exceptions: of the types to which migrations brought them.
            transaction.open_table(EVENTS)?;
            transaction.open_table(SNAPSHOT)?;
            transaction.open_table(USAGE)?;
            transaction.open_table(META)?.insert(SCHEMA_KEY, schema)?;
            Ok(())
        })?;
        match found > schema {
            true => Err(StateError::Newer { path: self.path.clone(), found }),
            false => Ok(()),
        }
    }

    /// Number of the last event, events since the snapshot, and the registry.
    fn replay(&self) -> Result<(u64, u64, Registry), StateError> {
        let damaged =
            |what: String, reason: String| StateError::Damaged { path: self.path.clone(), what, reason };
        let records = self.read(|transaction| {
            let snapshots = transaction.open_table(SNAPSHOT)?;
            let snapshot = snapshots.last()?.map(|(number, bytes)| (number.value(), bytes.value().to_vec()));
            let after = snapshot.as_ref().map_or(0, |(number, _)| *number);
            let mut events = vec![];
            for record in transaction.open_table(EVENTS)?.range(after + 1..)? {
                let (number, bytes) = record?;
                events.push((number.value(), bytes.value().to_vec()));
            }
            Ok((snapshot, events))
        })?;
        let (snapshot, events) = records;
        let (mut last, mut registry) = (0, Registry::default());
        if let Some((number, bytes)) = snapshot {
            registry = serde_json::from_slice(&bytes)
                .map_err(|error| damaged(format!("snapshot {number}"), error.to_string()))?;
            last = number;
        }
        let since_snapshot = events.len() as u64;
        for (number, bytes) in events {
            let what = || format!("event {number}");
            if number != last + 1 {
                return Err(damaged(what(), format!("it follows event {last}")));
            }
            let event: Event =
                serde_json::from_slice(&bytes).map_err(|error| damaged(what(), error.to_string()))?;
            registry.apply(&event).map_err(|Inconsistent { reason }| damaged(what(), reason))?;
            last = number;
        }
        Ok((last, since_snapshot, registry))
    }

    fn usage(&self) -> Result<BTreeMap<VersionId, Usage>, StateError> {
        let records = self.read(|transaction| {
            let mut records = vec![];
            for record in transaction.open_table(USAGE)?.iter()? {
                let (id, bytes) = record?;
                records.push((id.value(), bytes.value().to_vec()));
            }
            Ok(records)
        })?;
        let record = |(id, bytes): (u64, Vec<u8>)| match serde_json::from_slice(&bytes) {
            Ok(usage) => Ok((VersionId(id), usage)),
            Err(error) => {
                let (path, what) = (self.path.clone(), format!("figures of version {id}"));
                Err(StateError::Damaged { path, what, reason: error.to_string() })
            }
        };
        records.into_iter().map(record).collect()
    }

    fn write(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StateError> {
        let written = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            // Were the pages of the last commit found damaged after a crash, the one before it would be taken for the
            // last: without a word, and without what was acknowledged since. In two phases that is an error.
            transaction.set_two_phase_commit(true);
            work(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        written().map_err(|source| self.failed(source))
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StateError> {
        let read = || -> Result<T, redb::Error> { work(&self.database.begin_read()?) };
        read().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: redb::Error) -> StateError {
        failed(self.path.clone(), source)
    }
}

fn failed(path: PathBuf, source: redb::Error) -> StateError {
    match source {
        redb::Error::Corrupted(reason) => damaged_file(path, reason),
        redb::Error::Io(error)
            if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            damaged_file(path, error)
        }
        other => StateError::Database { path, source: Box::new(other) },
    }
}

/// A path that is not UTF-8 cannot be written.
fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| redb::Error::Io(error.into()))
}

#[cfg(test)]
mod migrating;
