//! The registry, its record on disk, and one order of changes for all who ask.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::{
    Change, ChangeError, Event, Inconsistent, Registry, StateError, StateLog, Timestamp, Usage, VersionId,
};

/// Why a change did not happen.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is not allowed.
    #[error(transparent)]
    Refused(#[from] ChangeError),
    /// It could not be stored, so it did not happen.
    #[error("the change could not be stored")]
    State(#[from] StateError),
    /// It contradicts the registry: a bug.
    #[error(transparent)]
    Inconsistent(#[from] Inconsistent),
}

/// A registry that many read and, one after the other, change. A change is on disk before anybody sees it.
pub struct RegistryStore {
    /// Held from judging a change until it is applied.
    log: Mutex<StateLog>,
    registry: RwLock<Arc<Registry>>,
}

impl RegistryStore {
    /// Opens the record under `directory`, which is made when it is not there, and replays it. Also gives the versions'
    /// figures as they were last written.
    ///
    /// # Errors
    /// [`StateError`]: in use by another process, written by a newer program, damaged, or not readable.
    pub fn open(directory: &Path) -> Result<(Self, BTreeMap<VersionId, Usage>), StateError> {
        let (log, registry, usage) = StateLog::open(directory)?;
        Ok((Self { log: Mutex::new(log), registry: RwLock::new(Arc::new(registry)) }, usage))
    }

    /// A registry that ends with the process.
    pub fn in_memory() -> Self {
        Self { log: Mutex::new(StateLog::in_memory()), registry: RwLock::default() }
    }

    /// The registry as it is now; it stays so for whoever holds it.
    pub fn read(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read())
    }

    /// Judges a change, stores what it comes to, and applies that. When this returns, it survives.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    pub fn change(&self, change: Change, now: Timestamp) -> Result<Vec<Event>, StoreError> {
        self.change_all(|_| vec![change], now)
    }

    /// Judges the changes that `decide` makes of the registry, each after those before it, and takes all of them in as one,
    /// or none.
    ///
    /// # Errors
    /// [`StoreError`] of the first that is refused; nothing has changed then.
    pub fn change_all(
        &self,
        decide: impl FnOnce(&Registry) -> Vec<Change>,
        now: Timestamp,
    ) -> Result<Vec<Event>, StoreError> {
        let outcomes = self.change_groups(|registry| vec![decide(registry)], now)?;
        Ok(outcomes.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// As [`RegistryStore::change_all`] for several groups of changes, which are stored as one: of each group all changes
    /// happen or, if one of them is refused, none. Gives what each group came to.
    ///
    /// # Errors
    /// [`StoreError`] when the groups could not be stored; nothing has changed then.
    pub fn change_groups(
        &self,
        decide: impl FnOnce(&Registry) -> Vec<Vec<Change>>,
        now: Timestamp,
    ) -> Result<Vec<Result<Vec<Event>, ChangeError>>, StoreError> {
        let mut log = self.log.lock();
        // On a copy: readers go on meanwhile, and what does not fit is never stored.
        let mut next = self.read();
        let (mut outcomes, mut happened) = (vec![], vec![]);
        for changes in decide(&next) {
            let outcome = after_group(&next, &changes, now)?;
            outcomes.push(outcome.map(|(registry, events)| {
                next = Arc::new(registry);
                happened.extend_from_slice(&events);
                events
            }));
        }
        if happened.is_empty() {
            return Ok(outcomes);
        }
        log.append(&happened)?;
        *self.registry.write() = Arc::clone(&next);
        // The events are safe already: a snapshot only makes the next start shorter.
        log.shorten(&next);
        Ok(outcomes)
    }

    /// Writes the versions' figures; those of versions that are gone are dropped.
    ///
    /// # Errors
    /// [`StateError`] when they cannot be written.
    pub fn write_usage(&self, usage: &BTreeMap<VersionId, Usage>) -> Result<(), StateError> {
        let mut log = self.log.lock();
        let mut usage = usage.clone();
        usage.retain(|id, _| self.registry.read().version(*id).is_some());
        log.write_usage(&usage)
    }
}

/// The registry after all of `changes`, and what happened; or why one of them is refused.
fn after_group(
    registry: &Registry,
    changes: &[Change],
    now: Timestamp,
) -> Result<Result<(Registry, Vec<Event>), ChangeError>, Inconsistent> {
    let (mut next, mut happened) = (registry.clone(), vec![]);
    for change in changes {
        let events = match next.plan(change, now) {
            Ok(events) => events,
            Err(refused) => return Ok(Err(refused)),
        };
        events.iter().try_for_each(|event| next.apply(event))?;
        happened.extend(events);
    }
    Ok(Ok((next, happened)))
}
