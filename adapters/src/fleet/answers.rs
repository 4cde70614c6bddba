//! From a name to the version that answers, and from a version to its values.

use std::iter;
use std::mem::discriminant;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use polylora_registry::{
    Activate, AdapterName, Change, Phase, Registry, ResolveError, Selector, Source, SplitKey, StoreError,
    Version, VersionId, VirtualPart,
};

use super::{Answering, Fleet, FleetFound, LoadError, Look, MOST_MISSES, Ticket};
use crate::{Base, LoadedAdapter, Refusal, compose};

impl Fleet {
    /// The version that answers a request for `model`, a name or `name@version`; `key` stands for the client where there is
    /// an A/B test. Touches no file and waits for nobody.
    ///
    /// # Errors
    /// [`LoadError::Unknown`], or [`LoadError::Refused`] while a refused adapter is not looked at again.
    pub fn find(&self, model: &str, key: Option<SplitKey>) -> Result<FleetFound, LoadError> {
        let registry = self.store.read();
        let names_a_version = registry.alias(model).is_none();
        let resolved = registry.resolve(model, key).cloned();
        let version = match resolved {
            Ok(version) => version,
            Err(ResolveError::UnknownName { .. }) => return self.unknown(model),
            Err(other) => {
                return Err(LoadError::Unknown { name: model.to_owned(), reason: other.to_string() });
            }
        };
        self.base_of(&version)?;
        if let Some(reason) = self.standing_fault(version.id) {
            self.count(version.id, false, Duration::ZERO);
            return Err(refused(&version, &reason));
        }
        let is_due = version.source.folder().is_some() && self.is_due(version.id);
        match self.cache.get(&version.digest).filter(|_| !is_due) {
            Some(adapter) => Ok(FleetFound::Loaded(Answering { adapter, version })),
            None if names_a_version => Ok(FleetFound::NotLoaded(Ticket::Version(version.id))),
            None => Ok(FleetFound::NotLoaded(Ticket::Current(version.id))),
        }
    }

    /// What a ticket stands for, read where needed. Blocks meanwhile: not for async threads.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(&self, ticket: &Ticket) -> Result<Answering, LoadError> {
        match ticket {
            Ticket::Version(id) | Ticket::Current(id) => {
                let version = self.store.read().version(*id).cloned();
                let unknown = || LoadError::Unknown {
                    name: format!("version {id}"),
                    reason: format!("version {id} was deleted meanwhile"),
                };
                let version = version.ok_or_else(unknown)?;
                let answering = match (self.load_version(&version), ticket) {
                    // Another request was faster and has what replaced the files answer already.
                    (Err(error), Ticket::Current(_)) => match self.successor(&version) {
                        Some(successor) => self.load_version(&successor)?,
                        None => return Err(error),
                    },
                    (outcome, _) => outcome?,
                };
                if matches!(ticket, Ticket::Version(_)) && answering.version.id != *id {
                    let path = version.source.folder().cloned().unwrap_or_default();
                    return Err(refused(
                        &version,
                        &Arc::new(Refusal::Replaced { path, version: version.tag() }),
                    ));
                }
                Ok(answering)
            }
            Ticket::Resolve(model) => {
                let name = Selector::split(model).map_or(model.as_str(), |(name, _)| name);
                self.look_for(name)?;
                match self.store.read().resolve(model, None).cloned() {
                    Ok(version) => self.load_version(&version),
                    Err(error) => {
                        self.note_miss(model);
                        match self.turned_away(name) {
                            Some(reason) => Err(LoadError::Refused { name: name.to_owned(), reason }),
                            None => {
                                Err(LoadError::Unknown { name: model.clone(), reason: error.to_string() })
                            }
                        }
                    }
                }
            }
        }
    }

    /// The adapter of that name, found and loaded in one. Blocks.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn get(&self, model: &str) -> Result<Answering, LoadError> {
        match self.find(model, None)? {
            FleetFound::Loaded(answering) => Ok(answering),
            FleetFound::NotLoaded(ticket) => self.load(&ticket),
        }
    }

    /// Has the next look at a version's files happen at once, and what failed tried again.
    pub fn refresh(&self, name: &str) {
        let ids: Vec<_> =
            self.store.read().versions_of(name).map(|version| (version.id, version.digest)).collect();
        let mut looks = self.looks.lock();
        for (id, digest) in ids {
            looks.remove(&id);
            self.cache.forget_failure(&digest);
        }
        drop(looks);
        self.misses.lock().remove(name);
        self.turned_away.lock().remove(name);
    }

    /// The version that took over from `version`, in its folder and in its place.
    fn successor(&self, version: &Version) -> Option<Arc<Version>> {
        let registry = self.store.read();
        let alias = registry.alias(version.name.as_str())?;
        let in_service = alias.active.into_iter().chain(alias.split.map(|split| split.candidate));
        let mut others = in_service.filter(|id| *id != version.id).filter_map(|id| registry.version(id));
        let folder = version.source.folder()?;
        others.find(|other| other.source.folder() == Some(folder)).cloned()
    }

    fn load_version(&self, version: &Arc<Version>) -> Result<Answering, LoadError> {
        self.base_of(version)?;
        let folder = match &version.source {
            Source::Virtual { parts } => return self.load_virtual(version, parts),
            Source::Folder { path, stamp } => {
                if self.is_due(version.id) && self.stamp(path) != Some(*stamp) {
                    return self.load_changed(version, path);
                }
                path
            }
        };
        self.note_look(version.id, None);
        let read = || {
            let (loaded, _) = self.examine(&self.roots.source(folder))?;
            let is_it = loaded.digest == version.digest;
            let changed = || Refusal::Replaced { path: folder.clone(), version: version.tag() };
            is_it.then_some(loaded).ok_or_else(changed)
        };
        match self.cache.get_or_load(&version.digest, read) {
            Ok(adapter) => {
                self.recovered(version);
                Ok(Answering { adapter, version: Arc::clone(version) })
            }
            Err(reason) if matches!(*reason, Refusal::Replaced { .. }) => {
                self.cache.forget_failure(&version.digest);
                self.load_changed(version, folder)
            }
            Err(reason) => Err(self.failed(version, reason)),
        }
    }

    /// The files of a version are not what they were. The same content may have been touched or put back; another one is
    /// another version, which answers in place of this one if this one did.
    fn load_changed(&self, version: &Arc<Version>, folder: &Path) -> Result<Answering, LoadError> {
        let lock = self.name_lock(&version.name);
        let guard = lock.lock();
        let name = version.name.as_str();
        let current = self.store.read().version(version.id).cloned().unwrap_or_else(|| Arc::clone(version));
        if current.source != version.source {
            drop(guard);
            return self.load_version(&current);
        }
        let examined = self.examine(&self.roots.source(folder));
        let (loaded, holding) = examined.map_err(|reason| self.failed(version, Arc::new(reason)))?;
        let digest = loaded.digest;
        let mut new = self.new_version(&version.name, holding);
        let mut was_in_service = false;
        // Decided at the moment of the change: what was deleted or retired meanwhile does not come back by itself.
        let decide = |registry: &Registry| {
            let known = registry.by_content(name, digest);
            if registry.version(version.id).is_none()
                || known.is_some_and(|known| known.phase == Phase::Retired)
            {
                return vec![];
            }
            let Some(alias) = registry.alias(name) else { return vec![] };
            let is_tried = alias.split.filter(|split| split.candidate == version.id);
            was_in_service = alias.active == Some(version.id) || is_tried.is_some();
            if alias.active == Some(version.id) {
                new.activate = Activate::Now;
            }
            let tried = is_tried.filter(|_| digest != version.digest).map(|split| Change::Split {
                name: version.name.clone(),
                candidate: Selector::Digest(digest.to_hex()),
                share: split.share,
                expect: None,
            });
            iter::once(Change::Register(Box::new(new))).chain(tried).collect()
        };
        match self.change_all(decide) {
            Ok(_) => {}
            Err(StoreError::Refused(source)) => {
                return Err(self.failed(version, Arc::new(Refusal::Unregistered { source })));
            }
            Err(error) => {
                return Err(LoadError::Store { name: name.to_owned(), reason: error.to_string() });
            }
        }
        let found = self.store.read().by_content(name, digest).cloned();
        let Some(registered) = found else {
            return Err(LoadError::Unknown {
                name: name.to_owned(),
                reason: "it was deleted meanwhile".to_owned(),
            });
        };
        tracing::info!(adapter = name, version = registered.tag(), "adapter's files changed and were read");
        self.cache.insert(&digest, loaded.clone());
        self.note_look(registered.id, None);
        if digest == version.digest || was_in_service {
            return Ok(Answering { adapter: loaded, version: registered });
        }
        let reason = Refusal::Replaced { path: folder.to_owned(), version: version.tag() };
        Err(self.failed(version, Arc::new(reason)))
    }

    fn load_virtual(&self, version: &Arc<Version>, parts: &[VirtualPart]) -> Result<Answering, LoadError> {
        let mut loaded: Vec<(LoadedAdapter, f32)> = vec![];
        for part in parts {
            let answering = self.load(&Ticket::Version(part.id))?;
            loaded.push((answering.adapter, part.weight));
        }
        let made = self.cache.get_or_load(&version.digest, || {
            let base = self
                .base_of(version)
                .map_err(|_| Refusal::Virtual { reason: "its base model is gone".to_owned() })?;
            let made = compose(&loaded, &*base.model)
                .map_err(|error| Refusal::Virtual { reason: error.to_string() })?;
            let is_it = made.digest == version.digest;
            let reason = || Refusal::Virtual { reason: "its parts are not what they were".to_owned() };
            is_it.then_some(made).ok_or_else(reason)
        });
        match made {
            Ok(adapter) => {
                self.note_look(version.id, None);
                self.recovered(version);
                Ok(Answering { adapter, version: Arc::clone(version) })
            }
            Err(reason) => Err(self.failed(version, reason)),
        }
    }

    /// What is known of a name that is not registered.
    fn unknown(&self, model: &str) -> Result<FleetFound, LoadError> {
        let name = Selector::split(model).map_or(model, |(name, _)| name);
        if let Some((look, _)) = self.turned_away.lock().get(name)
            && let Some((reason, tries)) = &look.fault
            && look.at.elapsed() < self.backoff.pause(*tries)
        {
            return Err(LoadError::Refused { name: name.to_owned(), reason: Arc::clone(reason) });
        }
        let unknown = || LoadError::Unknown {
            name: model.to_owned(),
            reason: ResolveError::UnknownName { name: model.to_owned() }.to_string(),
        };
        let can_be_there = AdapterName::new(name).is_ok() && self.roots.all().next().is_some();
        let is_missed =
            self.misses.lock().get(model).is_some_and(|at| at.elapsed() < self.options.recheck_after);
        match can_be_there && !is_missed {
            true => Ok(FleetFound::NotLoaded(Ticket::Resolve(model.to_owned()))),
            false => Err(unknown()),
        }
    }

    fn note_miss(&self, model: &str) {
        let mut misses = self.misses.lock();
        if misses.len() >= MOST_MISSES {
            misses.clear();
        }
        misses.insert(model.to_owned(), Instant::now());
    }

    /// The base model that a version is for.
    pub(super) fn base_of(&self, version: &Version) -> Result<&Base, LoadError> {
        self.bases.of(&version.base.digest).ok_or_else(|| {
            let (found, expected) = (version.base.name.clone(), self.bases.names());
            refused(version, &Arc::new(Refusal::OtherBase { found, expected }))
        })
    }

    /// A fault that is too fresh to look again.
    fn standing_fault(&self, id: VersionId) -> Option<Arc<Refusal>> {
        let looks = self.looks.lock();
        let look = looks.get(&id)?;
        let (reason, tries) = look.fault.as_ref()?;
        (look.at.elapsed() < self.backoff.pause(*tries)).then(|| Arc::clone(reason))
    }

    fn is_due(&self, id: VersionId) -> bool {
        self.looks.lock().get(&id).is_none_or(|look| look.at.elapsed() >= self.options.recheck_after)
    }

    pub(super) fn note_look(&self, id: VersionId, fault: Option<&Arc<Refusal>>) {
        let mut looks = self.looks.lock();
        let tries = looks.get(&id).and_then(|look| look.fault.as_ref()).map_or(0, |(_, tries)| *tries);
        let fault = fault.map(|reason| (Arc::clone(reason), tries.saturating_add(1)));
        looks.insert(id, Look { at: Instant::now(), fault });
    }

    /// Notes that a version cannot be loaded, here and in the registry.
    pub(super) fn failed(&self, version: &Version, reason: Arc<Refusal>) -> LoadError {
        self.note_look(version.id, Some(&reason));
        self.count(version.id, false, Duration::ZERO);
        let is_news = match &version.phase {
            Phase::Errored { reason: before } => *before != reason.to_string(),
            other => discriminant(other) == discriminant(&Phase::Registered),
        };
        if is_news {
            tracing::warn!(adapter = ?version.name, version = version.tag(), %reason, "adapter refused");
            self.note_fault(version.id, Some(reason.to_string()));
        }
        refused(version, &reason)
    }

    pub(super) fn recovered(&self, version: &Version) {
        if matches!(version.phase, Phase::Errored { .. }) {
            self.note_fault(version.id, None);
        }
    }

    fn note_fault(&self, id: VersionId, reason: Option<String>) {
        if let Err(error) = self.change(Change::Fault { id, reason }) {
            tracing::warn!(%id, %error, "an adapter's state could not be stored");
        }
    }
}

fn refused(version: &Version, reason: &Arc<Refusal>) -> LoadError {
    LoadError::Refused { name: version.name.to_string(), reason: Arc::clone(reason) }
}
