//! The state, and how an event changes it. Pure: the same events give the same registry, whenever they are applied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    AdapterName, Alias, Cause, Digest, Event, FilesStamp, NameError, Phase, Selector, Source, SplitKey,
    Version, VersionId,
};

/// Most names.
pub const MAX_NAMES: usize = 10_000;
/// Most versions of one name.
pub const MAX_VERSIONS_OF_A_NAME: usize = 1_000;
/// Most deleted places that are remembered; the oldest are forgotten first.
const MAX_GRAVES: usize = 10_000;

/// All names and versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Registry {
    /// Numbers that were given.
    last_id: u64,
    names: BTreeMap<AdapterName, Alias>,
    #[serde(with = "shared_versions")]
    versions: BTreeMap<VersionId, Arc<Version>>,
    /// Places whose adapters were deleted, oldest first.
    graves: Vec<Grave>,
}

/// Versions as a list: each knows its number.
mod shared_versions {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    use crate::{Version, VersionId};

    pub(super) fn serialize<S: Serializer>(
        versions: &BTreeMap<VersionId, Arc<Version>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(versions.values().map(AsRef::<Version>::as_ref))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<VersionId, Arc<Version>>, D::Error> {
        let versions = Vec::<Version>::deserialize(deserializer)?;
        Ok(versions.into_iter().map(|version| (version.id, Arc::new(version))).collect())
    }
}

/// A place that is not picked up by itself again, as long as its files are what they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grave {
    /// The name that was deleted.
    pub name: AdapterName,
    /// The folder.
    pub path: PathBuf,
    /// Its files.
    pub stamp: FilesStamp,
    /// Its content, which may lie in other folders, too.
    #[serde(default)]
    pub digest: Option<Digest>,
}

/// An event that cannot have happened to this registry: the record of events is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event does not fit the registry: {reason}")]
pub struct Inconsistent {
    /// What does not fit.
    pub reason: String,
}

/// Why a name gives no version to answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name is nobody's.
    #[error("no adapter is registered under the name {name:?}")]
    UnknownName {
        /// As it was asked for.
        name: String,
    },
    /// The text is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name has no such version.
    #[error("adapter {name:?} has no version {version}")]
    UnknownVersion {
        /// The name.
        name: AdapterName,
        /// As it was asked for.
        version: String,
    },
    /// Nobody answers under the name.
    #[error("adapter {name:?} has no active version: promote one")]
    Inactive {
        /// The name.
        name: AdapterName,
    },
    /// The version was taken out of service.
    #[error("adapter {name:?}: version {label} is retired")]
    Retired {
        /// The name.
        name: AdapterName,
        /// The version.
        label: semver::Version,
    },
}

impl Grave {
    /// Whether a version that is registered again ends what the grave stands for: the same name, and its folder or content.
    fn ends_with(&self, version: &Version) -> bool {
        self.name == version.name
            && (Some(&self.path) == version.source.folder() || self.digest == Some(version.digest))
    }
}

impl Registry {
    /// The name's versions and who answers.
    pub fn alias(&self, name: &str) -> Option<&Alias> {
        self.names.get(name)
    }

    /// The version of that number.
    pub fn version(&self, id: VersionId) -> Option<&Arc<Version>> {
        self.versions.get(&id)
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = (&AdapterName, &Alias)> {
        self.names.iter()
    }

    /// All versions, by number.
    pub fn versions(&self) -> impl Iterator<Item = &Arc<Version>> {
        self.versions.values()
    }

    /// The name's versions, oldest first.
    pub fn versions_of(&self, name: &str) -> impl Iterator<Item = &Arc<Version>> {
        let ids = self.names.get(name).map_or(&[][..], |alias| &alias.versions);
        ids.iter().filter_map(|id| self.versions.get(id))
    }

    /// The version of `name` that has this content.
    pub fn by_content(&self, name: &str, digest: Digest) -> Option<&Arc<Version>> {
        self.versions_of(name).find(|version| version.digest == digest)
    }

    /// The version that stands for `name` in lists: who answers, else the newest.
    pub fn lead(&self, name: &str) -> Option<&Arc<Version>> {
        let alias = self.names.get(name)?;
        self.version(alias.active.or_else(|| alias.versions.last().copied())?)
    }

    /// The version that `selector` means among those of `name`; of several with one digest the newest.
    pub fn select(&self, name: &str, selector: &Selector) -> Option<&Arc<Version>> {
        let mut versions: Vec<_> = self.versions_of(name).collect();
        versions.reverse();
        versions.into_iter().find(|version| match selector {
            Selector::Id(id) => version.id == *id,
            Selector::Label(label) => version.label == *label,
            Selector::Digest(_) => selector.begins(version.digest),
        })
    }

    /// The version that answers a request for `model`, which is a name, or a name with a version behind an `@`. Without a
    /// version, `key` says on which side of an A/B test the client is; without a key he is on that of the active one.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve(&self, model: &str, key: Option<SplitKey>) -> Result<&Arc<Version>, ResolveError> {
        let version = match (self.names.get_key_value(model), Selector::split(model)) {
            (Some((name, alias)), _) => {
                let active = alias.active.ok_or_else(|| ResolveError::Inactive { name: name.clone() })?;
                self.versions.get(&self.chosen(name, alias, active, key))
            }
            (None, Some((name, selector))) if self.names.contains_key(name) => {
                let found = self.select(name, &selector);
                let version = selector.to_string();
                let found =
                    found.ok_or(ResolveError::UnknownVersion { name: AdapterName::new(name)?, version });
                Some(found?)
            }
            _ => None,
        };
        let version = version.ok_or_else(|| ResolveError::UnknownName { name: model.to_owned() })?;
        match version.phase {
            Phase::Registered | Phase::Errored { .. } => Ok(version),
            Phase::Retired => {
                Err(ResolveError::Retired { name: version.name.clone(), label: version.label.clone() })
            }
        }
    }

    /// Whether a folder is that of a deleted adapter, unchanged since.
    pub fn is_buried(&self, name: &AdapterName, folder: &PathBuf, files: &FilesStamp) -> bool {
        self.graves.iter().any(|grave| grave.name == *name && grave.path == *folder && grave.stamp == *files)
    }

    /// Whether a content was deleted under a name, and not registered under it again since.
    pub fn is_content_buried(&self, name: &AdapterName, digest: Digest) -> bool {
        self.graves.iter().any(|grave| grave.name == *name && grave.digest == Some(digest))
    }

    /// The number that was given last.
    pub fn last_id(&self) -> VersionId {
        VersionId(self.last_id)
    }

    /// Takes an event in.
    ///
    /// # Errors
    /// [`Inconsistent`] for an event that [`Registry::plan`] cannot have given; the registry is as before then.
    pub fn apply(&mut self, event: &Event) -> Result<(), Inconsistent> {
        match event {
            Event::Registered(version) => self.register(version),
            Event::Moved { id, source } => {
                self.known(*id)?.source = source.clone();
                let version = self.known(*id)?.clone();
                self.graves.retain(|grave| !grave.ends_with(&version));
                Ok(())
            }
            Event::Activated { name, id, cause, at: _ } => self.activate(name, *id, *cause),
            Event::Divided { name, split, at: _ } => {
                if let Some(split) = split {
                    self.of_name(name, split.candidate)?;
                }
                self.named(name)?.split = *split;
                Ok(())
            }
            Event::Phased { id, phase, at: _ } => {
                self.known(*id)?.phase = phase.clone();
                Ok(())
            }
            Event::Retired { name, at: _ } => {
                let alias = self.named(name)?;
                (alias.active, alias.split) = (None, None);
                for id in alias.versions.clone() {
                    self.known(id)?.phase = Phase::Retired;
                }
                Ok(())
            }
            Event::Deleted { id, is_buried, at: _ } => self.delete(*id, *is_buried),
            Event::Pinned { name, is_pinned } => {
                self.named(name)?.pinned = *is_pinned;
                Ok(())
            }
            Event::Described { id, about } => {
                self.known(*id)?.about = about.clone();
                Ok(())
            }
            Event::Probed { id, probe } => {
                self.known(*id)?.probe = Some(probe.clone());
                Ok(())
            }
        }
    }

    /// Checks names and versions against each other.
    ///
    /// # Panics
    /// When they disagree.
    pub fn check_integrity(&self) {
        let mut listed = BTreeSet::new();
        for (name, alias) in &self.names {
            assert!(!alias.versions.is_empty(), "{name:?} has no versions");
            for id in &alias.versions {
                assert!(listed.insert(*id), "version {id} is listed twice");
                assert_eq!(self.versions[id].name, *name);
            }
            assert!(alias.split.is_none() || alias.active.is_some(), "{name:?} is split, and nobody answers");
            let in_service = alias.active.into_iter().chain(alias.split.map(|split| split.candidate));
            for id in in_service {
                assert!(alias.versions.contains(&id), "{name:?} is served by a version that is not its own");
                assert_ne!(
                    self.versions[&id].phase,
                    Phase::Retired,
                    "{name:?} is served by a retired version"
                );
            }
            let labels: BTreeSet<_> = alias.versions.iter().map(|id| &self.versions[id].label).collect();
            let digests: BTreeSet<_> = alias.versions.iter().map(|id| self.versions[id].digest).collect();
            assert!(labels.len() == alias.versions.len() && digests.len() == alias.versions.len());
        }
        assert_eq!(listed.len(), self.versions.len(), "every version is listed");
        for (id, version) in &self.versions {
            assert!(*id == version.id && (1..=self.last_id).contains(&id.0));
            if let Source::Virtual { parts } = &version.source {
                assert!(parts.iter().all(|part| self.versions.contains_key(&part.id)), "a part is gone");
                let is_retired = |id| self.versions[&id].phase == Phase::Retired;
                let fits = is_retired(*id) || !parts.iter().any(|part| is_retired(part.id));
                assert!(fits, "version {id} may be served, a part of it not");
            }
        }
    }

    fn chosen(
        &self,
        name: &AdapterName,
        alias: &Alias,
        active: VersionId,
        key: Option<SplitKey>,
    ) -> VersionId {
        let (Some(split), Some(key)) = (alias.split, key) else { return active };
        match self.versions.get(&split.candidate) {
            Some(candidate) if key.falls_within(split.share, name, candidate.digest) => candidate.id,
            _ => active,
        }
    }

    fn register(&mut self, version: &Version) -> Result<(), Inconsistent> {
        if version.id.0 != self.last_id + 1 {
            let reason = format!("number {} follows {}", version.id, self.last_id);
            return Err(Inconsistent { reason });
        }
        self.last_id = version.id.0;
        self.graves.retain(|grave| !grave.ends_with(version));
        self.names.entry(version.name.clone()).or_default().versions.push(version.id);
        self.versions.insert(version.id, Arc::new(version.clone()));
        Ok(())
    }

    fn activate(&mut self, name: &AdapterName, id: VersionId, cause: Cause) -> Result<(), Inconsistent> {
        self.of_name(name, id)?;
        let alias = self.named(name)?;
        alias.split = None;
        let before = alias.active.replace(id).filter(|before| *before != id);
        if cause != Cause::Rollback && before.is_some() {
            self.known(id)?.previous = before;
        }
        Ok(())
    }

    fn delete(&mut self, id: VersionId, is_buried: bool) -> Result<(), Inconsistent> {
        self.known(id)?;
        let Some(version) = self.versions.remove(&id) else { return Ok(()) };
        let Version { name, source, digest, .. } = Arc::unwrap_or_clone(version);
        let alias = self.named(&name)?;
        alias.versions.retain(|other| *other != id);
        alias.active = alias.active.filter(|active| *active != id);
        alias.split = alias.split.filter(|split| split.candidate != id && alias.active.is_some());
        if alias.versions.is_empty() {
            self.names.remove(&name);
        }
        if let (true, Source::Folder { path, stamp }) = (is_buried, source) {
            self.graves.push(Grave { name, path, stamp, digest: Some(digest) });
            let too_many = self.graves.len().saturating_sub(MAX_GRAVES);
            self.graves.drain(..too_many);
        }
        Ok(())
    }

    fn known(&mut self, id: VersionId) -> Result<&mut Version, Inconsistent> {
        let unknown = || Inconsistent { reason: format!("there is no version {id}") };
        self.versions.get_mut(&id).map(Arc::make_mut).ok_or_else(unknown)
    }

    fn named(&mut self, name: &AdapterName) -> Result<&mut Alias, Inconsistent> {
        let unknown = || Inconsistent { reason: format!("there is no adapter {name:?}") };
        self.names.get_mut(name.as_str()).ok_or_else(unknown)
    }

    fn of_name(&self, name: &AdapterName, id: VersionId) -> Result<(), Inconsistent> {
        match self.versions.get(&id) {
            Some(version) if version.name == *name => Ok(()),
            _ => Err(Inconsistent { reason: format!("{name:?} has no version {id}") }),
        }
    }
}
