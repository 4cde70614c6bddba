//! Judges a change: which events it is, or why it is refused.

use std::sync::Arc;

use crate::registry::{MAX_NAMES, MAX_VERSIONS_OF_A_NAME};
use crate::{
    Activate, AdapterName, Alias, BasisPoints, Cause, Change, ChangeError, Digest, Event, NewVersion, Phase,
    Registry, Selector, Split, Timestamp, Version, VersionId,
};

impl Registry {
    /// The events that `change` comes to at `now`; none when it is so already.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn plan(&self, change: &Change, now: Timestamp) -> Result<Vec<Event>, ChangeError> {
        change.reads_back()?;
        match change {
            Change::Register(new) => self.plan_registration(new, now),
            Change::Promote { name, version, expect } => {
                let alias = self.expected(name, *expect)?;
                let version = match version {
                    Some(selector) => self.selected(name, selector)?,
                    None => {
                        let split = alias.split.ok_or_else(|| ChangeError::NoSplit { name: name.clone() })?;
                        self.numbered(split.candidate)?
                    }
                };
                self.activation(version, Cause::Promotion, now)
            }
            Change::Rollback { name, expect } => {
                let alias = self.expected(name, *expect)?;
                let nothing = |reason: &str| ChangeError::NothingBefore {
                    name: name.clone(),
                    reason: reason.to_owned(),
                };
                let active = alias.active.ok_or_else(|| nothing("no version is active"))?;
                let before = self
                    .numbered(active)?
                    .previous
                    .ok_or_else(|| nothing("no other version answered before"))?;
                let before = self
                    .version(before)
                    .ok_or_else(|| nothing("the version that answered before was deleted"))?;
                self.activation(before, Cause::Rollback, now)
            }
            Change::Split { name, candidate, share, expect } => {
                let alias = self.expected(name, *expect)?;
                let candidate = self.servable(self.selected(name, candidate)?)?;
                self.plan_split(name, alias, candidate, *share, now)
            }
            Change::EndSplit { name, expect } => {
                let alias = self.expected(name, *expect)?;
                let end = || Event::Divided { name: name.clone(), split: None, at: now };
                Ok(alias.split.map(|_| end()).into_iter().collect())
            }
            Change::Retire { name, version, expect } => {
                self.plan_retirement(name, version.as_ref(), *expect, now)
            }
            Change::Delete { name, version, is_buried, expect } => {
                let alias = self.expected(name, *expect)?;
                let doomed = match version {
                    None => alias.versions.clone(),
                    Some(selector) => vec![self.out_of_service(alias, self.selected(name, selector)?)?.id],
                };
                self.parts_of_none(&doomed)?;
                let deleted = |id| Event::Deleted { id, is_buried: *is_buried, at: now };
                Ok(doomed.into_iter().map(deleted).collect())
            }
            Change::Pin { name, is_pinned } => {
                let alias = self.expected(name, None)?;
                let pinned = || Event::Pinned { name: name.clone(), is_pinned: *is_pinned };
                Ok((alias.pinned != *is_pinned).then(pinned).into_iter().collect())
            }
            Change::Fault { id, reason } => {
                let version = self.numbered(*id)?;
                let phase = match reason {
                    Some(reason) => Phase::Errored { reason: reason.clone() },
                    None => Phase::Registered,
                };
                let is_so = version.phase == phase || version.phase == Phase::Retired;
                let phased = || Event::Phased { id: *id, phase, at: now };
                Ok((!is_so).then(phased).into_iter().collect())
            }
            Change::Describe { id, about } => {
                let described = || Event::Described { id: *id, about: about.clone() };
                Ok((self.numbered(*id)?.about != *about).then(described).into_iter().collect())
            }
            Change::Probe { id, probe } => {
                let is_so = self.numbered(*id)?.probe.as_ref() == Some(probe);
                let probed = || Event::Probed { id: *id, probe: probe.clone() };
                Ok((!is_so).then(probed).into_iter().collect())
            }
        }
    }

    fn plan_registration(&self, new: &NewVersion, now: Timestamp) -> Result<Vec<Event>, ChangeError> {
        let alias = self.alias(new.name.as_str());
        let known = self.by_content(new.name.as_str(), new.digest);
        let mut events = vec![];
        let version = match known {
            Some(known) => {
                if let Some(asked) = new.label.clone().filter(|label| *label != known.label) {
                    let (name, label) = (new.name.clone(), known.label.clone());
                    return Err(ChangeError::ContentTaken { name, label, asked });
                }
                self.parts_fit(&new.source, Some(known))?;
                if known.source != new.source {
                    events.push(Event::Moved { id: known.id, source: new.source.clone() });
                }
                if known.phase != Phase::Registered {
                    events.push(Event::Phased { id: known.id, phase: Phase::Registered, at: now });
                }
                Version::clone(known)
            }
            None => {
                let version = self.newborn(new, now)?;
                events.push(Event::Registered(Box::new(version.clone())));
                version
            }
        };
        let active = alias.and_then(|alias| alias.active);
        let answers = match new.activate {
            Activate::Never => false,
            Activate::IfVacant => active.is_none(),
            Activate::Now => active != Some(version.id),
        };
        if answers {
            let (name, cause) = (new.name.clone(), Cause::Registration);
            events.push(Event::Activated { name, id: version.id, cause, at: now });
        }
        Ok(events)
    }

    fn newborn(&self, new: &NewVersion, now: Timestamp) -> Result<Version, ChangeError> {
        let versions: Vec<_> = self.versions_of(new.name.as_str()).collect();
        if versions.is_empty() && self.names().count() >= MAX_NAMES {
            return Err(ChangeError::Full { what: "names", max: MAX_NAMES });
        }
        if versions.len() >= MAX_VERSIONS_OF_A_NAME {
            return Err(ChangeError::Full { what: "versions of a name", max: MAX_VERSIONS_OF_A_NAME });
        }
        let next = || next_label(versions.iter().map(|version| &version.label));
        let label = new.label.clone().unwrap_or_else(next);
        if let Some(other) = versions.iter().find(|version| version.label == label) {
            let (name, digest) = (new.name.clone(), other.digest);
            return Err(ChangeError::LabelTaken { name, label, digest });
        }
        self.parts_fit(&new.source, None)?;
        Ok(Version {
            id: VersionId(self.last_id().0 + 1),
            name: new.name.clone(),
            label,
            digest: new.digest,
            content: new.content.clone(),
            source: new.source.clone(),
            base: new.base.clone(),
            created_at: now,
            previous: None,
            phase: Phase::Registered,
            about: new.about.clone(),
            probe: None,
        })
    }

    fn plan_split(
        &self,
        name: &AdapterName,
        alias: &Alias,
        candidate: &Version,
        share: BasisPoints,
        now: Timestamp,
    ) -> Result<Vec<Event>, ChangeError> {
        if alias.active.is_none() {
            return Err(ChangeError::Inactive { name: name.clone() });
        }
        if alias.active == Some(candidate.id) {
            let (name, label) = (name.clone(), candidate.label.clone());
            return Err(ChangeError::InService { name, label });
        }
        let split = Some(Split { candidate: candidate.id, share });
        let divided = || Event::Divided { name: name.clone(), split, at: now };
        Ok((alias.split != split).then(divided).into_iter().collect())
    }

    fn plan_retirement(
        &self,
        name: &AdapterName,
        version: Option<&Selector>,
        expect: Option<Digest>,
        now: Timestamp,
    ) -> Result<Vec<Event>, ChangeError> {
        let alias = self.expected(name, expect)?;
        let Some(selector) = version else {
            self.parts_of_none(&alias.versions)?;
            let is_so = self.versions_of(name.as_str()).all(|version| version.phase == Phase::Retired);
            let retired = || Event::Retired { name: name.clone(), at: now };
            return Ok((!is_so).then(retired).into_iter().collect());
        };
        let version = self.out_of_service(alias, self.selected(name, selector)?)?;
        self.parts_of_none(&[version.id])?;
        let retired = || Event::Phased { id: version.id, phase: Phase::Retired, at: now };
        Ok((version.phase != Phase::Retired).then(retired).into_iter().collect())
    }

    fn activation(&self, version: &Version, cause: Cause, now: Timestamp) -> Result<Vec<Event>, ChangeError> {
        self.servable(version)?;
        let alias = self.alias(version.name.as_str());
        let is_so = alias.is_some_and(|alias| alias.active == Some(version.id) && alias.split.is_none());
        let (name, id) = (version.name.clone(), version.id);
        Ok((!is_so).then(|| Event::Activated { name, id, cause, at: now }).into_iter().collect())
    }

    /// The name, if the active version is the one that is expected.
    fn expected(&self, name: &AdapterName, expect: Option<Digest>) -> Result<&Alias, ChangeError> {
        let alias =
            self.alias(name.as_str()).ok_or_else(|| ChangeError::UnknownName { name: name.clone() })?;
        let active = alias.active.and_then(|id| self.version(id)).map(|version| version.digest);
        match expect {
            Some(expected) if active != expect => {
                let found = active.map_or_else(|| "none".to_owned(), Digest::to_hex);
                Err(ChangeError::Conflict { name: name.clone(), expected, found })
            }
            _ => Ok(alias),
        }
    }

    fn selected(&self, name: &AdapterName, selector: &Selector) -> Result<&Version, ChangeError> {
        self.select(name.as_str(), selector).map(Arc::as_ref).ok_or_else(|| {
            let known: Vec<_> =
                self.versions_of(name.as_str()).map(|version| version.label.to_string()).collect();
            let (version, known) = (selector.to_string(), known.join(", "));
            ChangeError::UnknownVersion { name: name.clone(), version, known }
        })
    }

    pub(crate) fn numbered(&self, id: VersionId) -> Result<&Version, ChangeError> {
        self.version(id).map(Arc::as_ref).ok_or(ChangeError::UnknownId { id })
    }

    pub(crate) fn servable<'a>(&self, version: &'a Version) -> Result<&'a Version, ChangeError> {
        match version.phase {
            Phase::Registered | Phase::Errored { .. } => Ok(version),
            Phase::Retired => {
                let (name, label) = (version.name.clone(), version.label.clone());
                Err(ChangeError::NotServable { name, label, phase: version.phase.word() })
            }
        }
    }

    fn out_of_service<'a>(&self, alias: &Alias, version: &'a Version) -> Result<&'a Version, ChangeError> {
        let is_tried = alias.split.is_some_and(|split| split.candidate == version.id);
        if alias.active == Some(version.id) || is_tried {
            let (name, label) = (version.name.clone(), version.label.clone());
            return Err(ChangeError::InService { name, label });
        }
        Ok(version)
    }
}

/// 1.0.0, or the highest there is with its patch raised, or its minor or major number when that is at its end.
fn next_label<'a>(labels: impl Iterator<Item = &'a semver::Version>) -> semver::Version {
    let Some(highest) = labels.max() else { return semver::Version::new(1, 0, 0) };
    let (major, minor, patch) = (highest.major, highest.minor, highest.patch);
    match (major.checked_add(1), minor.checked_add(1), patch.checked_add(1)) {
        (_, _, Some(patch)) => semver::Version::new(major, minor, patch),
        (_, Some(minor), None) => semver::Version::new(major, minor, 0),
        (Some(major), None, None) => semver::Version::new(major, 0, 0),
        (None, None, None) => highest.clone(),
    }
}
