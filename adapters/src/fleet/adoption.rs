//! Takes in what folders hold: at the start, when something changed, and when a name is asked for that is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use polylora_registry::{
    Activate, AdapterName, Change, Event, NewVersion, Phase, Registry, Source, StoreError, Version, VersionId,
};
use rayon::prelude::*;

use super::examination::Holding;
use super::{Fleet, LoadError, Look, OpenFleetError, now};
use crate::{Digest, Finding, FoundVersion, Layout, Refusal, RefusedFolder};

/// Names whose locks are kept; more than that are asked for only by somebody who tries names out.
const MOST_LOCKS: usize = 1_024;

/// What came of a look at the folders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Versions that are new.
    pub registered: usize,
    /// Names for which another version answers now.
    pub activated: usize,
    /// Folders that are refused.
    pub refused: usize,
}

impl Fleet {
    /// Takes in what the adapters directory holds now.
    ///
    /// # Errors
    /// When it cannot be listed, or the registry not be written.
    pub fn rescan(&self) -> Result<Adopted, OpenFleetError> {
        let Some(root) = self.roots.scanned.clone() else {
            return Ok(self.single()?);
        };
        let layout = Layout::scan(&root, &self.bases.catalogs())?;
        *self.nameless.lock() = layout.nameless.clone();
        let found: BTreeSet<_> = layout.versions.iter().map(|version| version.name.clone()).collect();
        self.turned_away.lock().retain(|name, (_, path)| found.contains(name) || !path.starts_with(&root));
        self.note_vanished(&layout);
        // In order of their names, so that two who look at the same time do not wait for each other.
        let locks: Vec<_> =
            self.names_of_news(&layout.versions).iter().map(|name| self.name_lock(name)).collect();
        let _one_at_a_time: Vec<_> = locks.iter().map(|lock| lock.lock()).collect();
        Ok(self.adopt(layout.versions)?)
    }

    /// Takes in what the folders hold under a name.
    pub(super) fn look_for(&self, name: &str) -> Result<(), LoadError> {
        let Ok(name) = AdapterName::new(name) else { return Ok(()) };
        let lock = self.name_lock(&name);
        let _one_at_a_time = lock.lock();
        if self.store.read().alias(name.as_str()).is_some() {
            return Ok(());
        }
        for root in self.roots.all() {
            let Ok(layout) = Layout::scan_adapter(root, &name, &self.bases.catalogs()) else { continue };
            if layout.versions.is_empty() {
                continue;
            }
            let stored = self.adopt(layout.versions);
            let failed =
                |error: StoreError| LoadError::Store { name: name.to_string(), reason: error.to_string() };
            return stored.map(drop).map_err(failed);
        }
        self.turned_away.lock().remove(name.as_str());
        Ok(())
    }

    /// Reads what is new among `found` and registers it. A name that nobody answers under gets its newest version; replaced
    /// files take over from what they replaced; any other new version waits to be promoted.
    pub(super) fn adopt(&self, found: Vec<FoundVersion>) -> Result<Adopted, StoreError> {
        let news: Vec<_> = {
            let registry = self.store.read();
            found.into_iter().filter(|found| self.is_news(&registry, found)).collect()
        };
        let examined: Vec<_> = news
            .into_par_iter()
            .map(|found| {
                let outcome = match &found.finding {
                    // The values go to the host cache, as far as it has room: a directory may hold more than memory.
                    Finding::Served(_) => {
                        self.examine(&found.source).map_err(Arc::new).map(|(loaded, held)| {
                            self.cache.insert(&held.digest, loaded);
                            held
                        })
                    }
                    Finding::Refused(reason) => Err(Arc::clone(reason)),
                };
                (found, outcome)
            })
            .collect();
        let mut good: BTreeMap<AdapterName, Vec<(FoundVersion, Holding)>> = BTreeMap::new();
        let mut refused = 0;
        for (found, outcome) in examined {
            match outcome {
                Ok(held) => good.entry(found.name.clone()).or_default().push((found, held)),
                Err(reason) => {
                    refused += 1;
                    self.turn_away(&found, &reason);
                }
            }
        }
        let groups = |registry: &Registry| {
            good.iter().map(|(name, good)| self.registrations(registry, name, good)).collect()
        };
        let mut events = vec![];
        for (good, outcome) in good.values().zip(self.store.change_groups(groups, now())?) {
            match outcome {
                Ok(happened) => events.extend(happened),
                // One name that cannot be registered does not hold up the others.
                Err(source) => {
                    refused += good.len();
                    let reason = Arc::new(Refusal::Unregistered { source });
                    good.iter().for_each(|(found, _)| self.turn_away(found, &reason));
                }
            }
        }
        self.follow(&events);
        let registered: Vec<_> =
            events.iter().filter(|event| matches!(event, Event::Registered(_))).collect();
        for event in &registered {
            let Event::Registered(version) = event else { continue };
            let (tag, bytes) = (version.tag(), version.content.bytes);
            tracing::info!(adapter = ?version.name, version = tag, bytes, "adapter registered");
            if !version.content.has_effect {
                tracing::warn!(adapter = ?version.name, version = tag, "the adapter changes nothing: it answers as the base does");
            }
        }
        for (found, held) in good.values().flatten() {
            self.turned_away.lock().remove(found.name.as_str());
            let registry = self.store.read();
            let id = registry.by_content(found.name.as_str(), held.digest).map(|version| version.id);
            id.into_iter().for_each(|id| self.note_look(id, None));
        }
        let activated = events.iter().filter(|event| matches!(event, Event::Activated { .. })).count();
        Ok(Adopted { registered: registered.len(), activated, refused })
    }

    fn names_of_news(&self, found: &[FoundVersion]) -> BTreeSet<AdapterName> {
        let registry = self.store.read();
        found.iter().filter(|found| self.is_news(&registry, found)).map(|found| found.name.clone()).collect()
    }

    pub(super) fn name_lock(&self, name: &AdapterName) -> Arc<Mutex<()>> {
        let mut locks = self.adopting.lock();
        if locks.len() >= MOST_LOCKS {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(locks.entry(name.clone()).or_default())
    }

    /// The reason why a name has only refused folders.
    pub(super) fn turned_away(&self, name: &str) -> Option<Arc<Refusal>> {
        let turned_away = self.turned_away.lock();
        let (look, _) = turned_away.get(name)?;
        look.fault.as_ref().map(|(reason, _)| Arc::clone(reason))
    }

    /// The folders that are not served, as last seen.
    pub fn refused(&self) -> Vec<RefusedFolder> {
        let turned_away = self.turned_away.lock();
        let named = turned_away.iter().filter_map(|(name, (look, _))| {
            let (reason, _) = look.fault.as_ref()?;
            Some(RefusedFolder { name: name.to_string(), reason: Arc::clone(reason) })
        });
        let mut refused: Vec<_> = named.chain(self.nameless.lock().iter().cloned()).collect();
        drop(turned_away);
        let looks = self.looks.lock();
        let registry = self.store.read();
        for (id, look) in looks.iter() {
            let (Some(version), Some((reason, _))) = (registry.version(*id), &look.fault) else { continue };
            let name = version.name.to_string();
            if registry.alias(&name).is_some_and(|alias| alias.active == Some(*id)) {
                refused.push(RefusedFolder { name, reason: Arc::clone(reason) });
            }
        }
        refused.sort_by(|a, b| a.name.cmp(&b.name));
        refused
    }

    fn single(&self) -> Result<Adopted, StoreError> {
        let Some((name, folder)) = self.roots.single.clone() else { return Ok(Adopted::default()) };
        let source = self.roots.source(&folder);
        let finding = match self.bases.inspect(&source) {
            Ok((_, manifest)) => Finding::Served(Box::new(manifest)),
            Err(reason) => Finding::Refused(Arc::new(reason)),
        };
        self.adopt(vec![FoundVersion { name, label: None, source, finding }])
    }

    /// Whether a folder is not one that is registered as it is, nor one that was deleted.
    fn is_news(&self, registry: &Registry, found: &FoundVersion) -> bool {
        let Finding::Served(manifest) = &found.finding else { return true };
        let (folder, files) = (manifest.folder().to_owned(), manifest.identity().into());
        if registry.is_buried(&found.name, &folder, &files) {
            return false;
        }
        let known = registry.versions_of(found.name.as_str()).any(|version| {
            self.bases.of(&version.base.digest).is_some()
                && version.source == Source::Folder { path: folder.clone(), stamp: files }
        });
        !known
    }

    /// The changes that register what was read.
    fn registrations(
        &self,
        registry: &Registry,
        name: &AdapterName,
        good: &[(FoundVersion, Holding)],
    ) -> Vec<Change> {
        let mut changes = vec![];
        let mut newest = None;
        let mut seen: BTreeSet<Digest> = BTreeSet::new();
        // A name all of whose versions were taken out of service does not come back by itself.
        let mut of_name = registry.versions_of(name.as_str()).peekable();
        let is_retired = of_name.peek().is_some() && of_name.all(|version| version.phase == Phase::Retired);
        for (found, held) in good {
            let same = registry.by_content(name.as_str(), held.digest);
            let is_elsewhere = |same: &&Arc<Version>| match &same.source {
                Source::Folder { path, stamp } => {
                    same.phase == Phase::Registered && self.stamp(path) == Some(*stamp)
                }
                Source::Virtual { .. } => true,
            };
            let is_out = same.is_some_and(|same| same.phase == Phase::Retired);
            let is_gone = registry.is_content_buried(name, held.digest);
            if is_out || is_gone || same.as_ref().is_some_and(is_elsewhere) || !seen.insert(held.digest) {
                continue;
            }
            // A label stands for one content: where its folder has another one now, the next free label is taken.
            let is_taken =
                |label: &semver::Version| registry.versions_of(name.as_str()).any(|v| v.label == *label);
            let label = match same {
                Some(same) => Some(same.label.clone()),
                None => found.label.clone().filter(|label| !is_taken(label)),
            };
            let new = NewVersion { label, ..self.new_version(name, held.clone()) };
            changes.push(Change::Register(Box::new(new.clone())));
            newest = Some((new, self.replaces_active(registry, name, held.source.folder())));
        }
        // A label that a folder asks for is given before the next free one is.
        changes.sort_by_key(|change| matches!(change, Change::Register(new) if new.label.is_none()));
        // Who answers is settled once all of a name's versions are there.
        changes.extend(newest.filter(|_| !is_retired).map(|(new, replaces)| {
            let activate = if replaces { Activate::Now } else { Activate::IfVacant };
            // Its label is settled by then, whichever it got.
            Change::Register(Box::new(NewVersion { label: None, activate, ..new }))
        }));
        changes
    }

    /// Whether what answers now came from that folder, or cannot answer on this base.
    fn replaces_active(&self, registry: &Registry, name: &AdapterName, folder: Option<&PathBuf>) -> bool {
        let active = registry.alias(name.as_str()).and_then(|alias| alias.active);
        active.and_then(|id| registry.version(id)).is_some_and(|active| {
            self.bases.of(&active.base.digest).is_none()
                || (folder.is_some() && active.source.folder() == folder)
        })
    }

    fn turn_away(&self, found: &FoundVersion, reason: &Arc<Refusal>) {
        tracing::warn!(adapter = ?found.name, folder = %found.source.path().display(), %reason, "adapter refused");
        let known: Option<VersionId> = {
            let registry = self.store.read();
            let from_there = |version: &&Arc<Version>| version.source.folder() == Some(found.source.path());
            registry.versions_of(found.name.as_str()).filter(from_there).last().map(|version| version.id)
        };
        if let Some(version) = known.and_then(|id| self.store.read().version(id).cloned()) {
            let _ = self.failed(&version, Arc::clone(reason));
        } else if self.store.read().alias(found.name.as_str()).is_none() {
            let mut turned_away = self.turned_away.lock();
            let before = turned_away.get(found.name.as_str()).and_then(|(look, _)| look.fault.as_ref());
            let tries = before.map_or(1, |(_, tries)| tries.saturating_add(1));
            let look = Look { at: Instant::now(), fault: Some((Arc::clone(reason), tries)) };
            turned_away.insert(found.name.clone(), (look, found.source.path().clone()));
        }
    }

    /// Notes which versions' folders under the scanned root are gone.
    fn note_vanished(&self, layout: &Layout) {
        let there: BTreeSet<&PathBuf> = layout.versions.iter().map(|found| found.source.path()).collect();
        let Some(root) = &self.roots.scanned else { return };
        let gone: Vec<_> = {
            let registry = self.store.read();
            let is_gone = |version: &&Arc<Version>| {
                let folder = version.source.folder();
                folder.is_some_and(|path| path.starts_with(root) && !there.contains(path) && !path.exists())
            };
            registry.versions().filter(is_gone).cloned().collect()
        };
        for version in gone {
            let Some(path) = version.source.folder().cloned() else { continue };
            let _ = self.failed(&version, Arc::new(Refusal::Vanished { path }));
        }
    }

    pub(super) fn change(&self, change: Change) -> Result<Vec<Event>, StoreError> {
        self.change_all(|_| vec![change])
    }

    pub(super) fn change_all(
        &self,
        decide: impl FnOnce(&Registry) -> Vec<Change>,
    ) -> Result<Vec<Event>, StoreError> {
        let events = self.store.change_all(decide, now())?;
        self.follow(&events);
        Ok(events)
    }
}
