//! A registry as the API shows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use polylora_adapters::Listed;
use polylora_registry::{Alias, Phase, Registry, Selector, Usage, Version, VersionId};

use super::{AdapterRef, AdaptersCommandError};
use crate::wire::adapter_entry::AdapterEntry;

/// A registry, and how its versions fare.
pub struct RegistryView<'a> {
    /// Names and versions.
    pub registry: &'a Registry,
    /// The versions' figures.
    pub usage: &'a BTreeMap<VersionId, Usage>,
}

impl<'a> RegistryView<'a> {
    /// All versions, by name and age, or one a name: what is active, else the newest.
    pub fn list(&self, all: bool) -> Vec<AdapterEntry> {
        let main = |name| self.main_version(name).map(|version| self.entry(version)).into_iter().collect();
        let of = |name| if all { self.entries_of(name) } else { main(name) };
        self.registry.names().flat_map(|(name, _)| of(name.as_str())).collect()
    }

    /// The name's versions, oldest first.
    pub fn entries_of(&self, name: &str) -> Vec<AdapterEntry> {
        self.registry.versions_of(name).map(|version| self.entry(version)).collect()
    }

    /// A version as the API tells it.
    pub fn entry(&self, version: &Arc<Version>) -> AdapterEntry {
        let nobody = Alias::default();
        let alias = self.registry.alias(version.name.as_str()).unwrap_or(&nobody);
        let usage = self.usage.get(&version.id).copied().unwrap_or_default();
        Listed::at_rest(Arc::clone(version), alias, usage).into()
    }

    /// What is active under a name, else its newest version.
    ///
    /// # Errors
    /// [`AdaptersCommandError::UnknownName`].
    pub fn main_version(&self, name: &str) -> Result<&'a Arc<Version>, AdaptersCommandError> {
        self.registry.lead(name).ok_or_else(|| AdaptersCommandError::UnknownName { name: name.to_owned() })
    }

    /// The version of `name` that `selector` means.
    ///
    /// # Errors
    /// [`AdaptersCommandError`] for an unknown name or version.
    pub fn selected(
        &self,
        name: &str,
        selector: &Selector,
    ) -> Result<&'a Arc<Version>, AdaptersCommandError> {
        self.main_version(name)?;
        self.registry.select(name, selector).ok_or_else(|| {
            let labels = self.registry.versions_of(name).map(|version| version.label.to_string());
            let (name, version, known) =
                (name.to_owned(), selector.to_string(), labels.collect::<Vec<_>>().join(", "));
            AdaptersCommandError::UnknownVersion { name, version, known }
        })
    }

    /// The version that is meant, as a server finds it: a name goes before a name with a version, that before a number.
    ///
    /// # Errors
    /// [`AdaptersCommandError`] when nothing is meant.
    pub fn found(&self, adapter: &AdapterRef) -> Result<&'a Arc<Version>, AdaptersCommandError> {
        let unknown = match self.main_version(adapter.as_str()) {
            Ok(version) => return Ok(version),
            Err(unknown) => unknown,
        };
        match (adapter.split(), adapter.number()) {
            (Some((name, selector)), _) => self.selected(name, &selector),
            (None, Some(id)) => self.registry.version(id).ok_or(AdaptersCommandError::UnknownId { id }),
            (None, None) => Err(unknown),
        }
    }

    /// The versions that a check is about: those that may be served, of all or of one name, or the one that is meant.
    ///
    /// # Errors
    /// [`AdaptersCommandError`] when nothing is meant.
    pub fn to_be_checked(
        &self,
        adapter: Option<&AdapterRef>,
    ) -> Result<Vec<&'a Arc<Version>>, AdaptersCommandError> {
        let name = adapter.map(AdapterRef::as_str);
        if let Some(adapter) = adapter.filter(|adapter| self.registry.alias(adapter.as_str()).is_none()) {
            return Ok(vec![self.found(adapter)?]);
        }
        let names = self.registry.names().map(|(name, _)| name.as_str());
        let names = names.filter(|other| name.is_none_or(|name| name == *other));
        let versions = names.flat_map(|name| self.registry.versions_of(name));
        Ok(versions.filter(|version| version.phase != Phase::Retired).collect())
    }
}
