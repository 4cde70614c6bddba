//! The adapters of one of the base models that a fleet has adapters for.

use std::sync::Arc;
use std::time::Duration;

use polylora_adapters::{Digest, Fleet, Ticket, VersionId};

use crate::adapter_source::{AdapterMemory, AdapterQuery, AdapterSource, FoundAdapter, ServedAdapter};
use crate::{AdapterInfo, EmbedError};

/// A fleet as the engine of one base model sees it: other models' adapters are unknown.
pub struct AdaptersOf {
    fleet: Arc<Fleet>,
    base: Digest,
}

impl AdaptersOf {
    /// The adapters of the base model with that digest.
    pub fn new(fleet: Arc<Fleet>, base: Digest) -> Self {
        Self { fleet, base }
    }

    fn own(&self, name: &str, id: VersionId) -> Result<(), EmbedError> {
        let version = self.fleet.version_by_id(id);
        match version.is_none_or(|version| version.base.digest == self.base) {
            true => Ok(()),
            false => Err(EmbedError::UnknownAdapter { name: name.to_owned() }),
        }
    }
}

impl AdapterSource for AdaptersOf {
    fn find(&self, query: &AdapterQuery<'_>) -> Result<FoundAdapter, EmbedError> {
        let found = AdapterSource::find(self.fleet.as_ref(), query)?;
        match &found {
            FoundAdapter::Loaded(adapter) => self.own(query.name, adapter.served_by.id)?,
            FoundAdapter::NotLoaded(Ticket::Version(id) | Ticket::Current(id)) => {
                self.own(query.name, *id)?
            }
            // Only what is there then can tell.
            FoundAdapter::NotLoaded(Ticket::Resolve(_)) => {}
        }
        Ok(found)
    }

    fn load(&self, ticket: &Ticket) -> Result<ServedAdapter, EmbedError> {
        let served = AdapterSource::load(self.fleet.as_ref(), ticket)?;
        let name = match ticket {
            Ticket::Resolve(name) => name,
            Ticket::Version(_) | Ticket::Current(_) => &served.served_by.tag,
        };
        self.own(name, served.served_by.id)?;
        Ok(served)
    }

    fn list(&self) -> Vec<AdapterInfo> {
        let served = self.fleet.served().into_iter().filter(|version| version.base.digest == self.base);
        served.map(|version| crate::fleet_source::info(&version, self.fleet.is_loaded(&version))).collect()
    }

    fn memory(&self) -> AdapterMemory {
        AdapterSource::memory(self.fleet.as_ref())
    }

    fn answered(&self, id: VersionId, is_ok: bool, took: Duration) {
        self.fleet.count(id, is_ok, took);
    }
}
