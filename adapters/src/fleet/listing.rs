//! The fleet as lists show it.

use std::sync::Arc;

use polylora_registry::{Alias, Phase, Usage, Version, VersionId};

use super::Fleet;

/// How far a version is from answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Known, and to be read first.
    Registered,
    /// Being read.
    Loading,
    /// In host memory.
    Ready,
    /// On the device.
    Resident,
    /// Could not be loaded when that was last tried.
    Errored,
    /// Out of service.
    Retired,
}

/// A version with what lists show beside it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The version.
    pub version: Arc<Version>,
    /// How far it is.
    pub state: State,
    /// Whether it answers under its name.
    pub is_active: bool,
    /// Percent of the traffic that it gets in an A/B test.
    pub trial_percent: Option<f64>,
    /// Whether its name is pinned.
    pub is_pinned: bool,
    /// How it fares.
    pub usage: Usage,
}

impl Listed {
    /// A version of a registry that no server has open: nothing is loaded.
    pub fn at_rest(version: Arc<Version>, alias: &Alias, usage: Usage) -> Self {
        let trial = alias.split.filter(|split| split.candidate == version.id);
        let state = match &version.phase {
            Phase::Registered => State::Registered,
            Phase::Errored { .. } => State::Errored,
            Phase::Retired => State::Retired,
        };
        Self {
            state,
            is_active: alias.active == Some(version.id),
            trial_percent: trial.map(|split| split.share.percent()),
            is_pinned: alias.pinned,
            usage,
            version,
        }
    }
}

impl State {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Resident => "resident",
            Self::Errored => "errored",
            Self::Retired => "retired",
        }
    }
}

impl Fleet {
    /// All versions, by name and age.
    pub fn list(&self) -> Vec<Listed> {
        let versions: Vec<(Arc<Version>, Alias)> = {
            let registry = self.store.read();
            let of = |(name, alias): (&crate::AdapterName, &Alias)| {
                let versions: Vec<_> = registry.versions_of(name.as_str()).cloned().collect();
                versions.into_iter().map(|version| (version, alias.clone())).collect::<Vec<_>>()
            };
            registry.names().flat_map(of).collect()
        };
        versions.into_iter().map(|(version, alias)| self.listed(version, &alias)).collect()
    }

    /// The versions that answer under their names and were not refused when that was last tried, by name.
    pub fn served(&self) -> Vec<Arc<Version>> {
        let registry = self.store.read();
        let active = registry.names().filter_map(|(_, alias)| registry.version(alias.active?));
        active
            .filter(|version| {
                version.phase == Phase::Registered && self.bases.of(&version.base.digest).is_some()
            })
            .cloned()
            .collect()
    }

    /// The versions of a name, oldest first.
    pub fn list_of(&self, name: &str) -> Vec<Listed> {
        let (versions, alias): (Vec<_>, _) = {
            let registry = self.store.read();
            (registry.versions_of(name).cloned().collect(), registry.alias(name).cloned())
        };
        let alias = alias.unwrap_or_default();
        versions.into_iter().map(|version| self.listed(version, &alias)).collect()
    }

    /// The version of that number.
    pub fn list_version(&self, id: VersionId) -> Option<Listed> {
        let registry = self.store.read();
        let version = registry.version(id)?;
        Some(self.listed(Arc::clone(version), registry.alias(version.name.as_str())?))
    }

    /// Whether a version's values are in memory.
    pub fn is_loaded(&self, version: &Version) -> bool {
        self.cache.contains(&version.digest) || self.is_resident(&version.digest)
    }

    fn listed(&self, version: Arc<Version>, alias: &Alias) -> Listed {
        let (state, usage) = (self.state(&version), self.traffic.usage(version.id));
        Listed { state, ..Listed::at_rest(version, alias, usage) }
    }

    fn state(&self, version: &Version) -> State {
        match &version.phase {
            Phase::Retired => State::Retired,
            Phase::Errored { .. } => State::Errored,
            Phase::Registered if self.cache.is_loading(&version.digest) => State::Loading,
            Phase::Registered if self.is_resident(&version.digest) => State::Resident,
            Phase::Registered if self.cache.contains(&version.digest) => State::Ready,
            Phase::Registered => State::Registered,
        }
    }
}
