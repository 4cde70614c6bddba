//! The registry once more, as plain lists that are searched from the front: slow, and right at a glance.

use std::path::PathBuf;

use polylora_registry::{
    About, Activate, Change, Digest, FilesStamp, NewVersion, Phase, Registry, Selector, Source, Timestamp,
};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Oracle {
    /// Numbers that were given.
    pub given: u64,
    pub names: Vec<Name>,
    /// Those that are left, in the order in which they were registered.
    pub rows: Vec<Row>,
    pub graves: Vec<(String, PathBuf, FilesStamp, Digest)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Name {
    pub name: String,
    pub active: Option<u64>,
    /// The candidate and its basis points.
    pub split: Option<(u64, u16)>,
    pub pinned: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub id: u64,
    pub name: String,
    pub label: semver::Version,
    pub digest: Digest,
    pub source: Source,
    pub created_at: Timestamp,
    pub previous: Option<u64>,
    pub phase: Phase,
    pub about: About,
    pub probe: Option<Vec<f32>>,
}

/// Names of all the errors that a change may meet; which comes first is the registry's affair.
pub type Reasons = Vec<&'static str>;

impl Oracle {
    /// What is to be seen of `registry`.
    pub fn seen(registry: &Registry) -> Self {
        let names = registry.names().map(|(name, alias)| Name {
            name: name.to_string(),
            active: alias.active.map(|id| id.0),
            split: alias.split.map(|split| (split.candidate.0, split.share.into())),
            pinned: alias.pinned,
        });
        let rows = registry.versions().map(|version| Row {
            id: version.id.0,
            name: version.name.to_string(),
            label: version.label.clone(),
            digest: version.digest,
            source: version.source.clone(),
            created_at: version.created_at,
            previous: version.previous.map(|id| id.0),
            phase: version.phase.clone(),
            about: version.about.clone(),
            probe: version.probe.clone(),
        });
        Self { given: registry.last_id().0, names: names.collect(), rows: rows.collect(), graves: vec![] }
    }

    /// Everything after `change`.
    pub fn after(&self, change: &Change, now: Timestamp) -> Result<Self, Reasons> {
        let mut next = self.clone();
        match change {
            Change::Register(new) => next.register(new, now)?,
            Change::Promote { name, version, expect } => {
                self.expect(name.as_str(), *expect)?;
                let id = match version {
                    Some(selector) => self.pick(name.as_str(), selector)?,
                    None => self.name(name.as_str()).and_then(|name| name.split).ok_or(vec!["NoSplit"])?.0,
                };
                next.answer(id, true)?;
            }
            Change::Rollback { name, expect } => {
                self.expect(name.as_str(), *expect)?;
                let active = self.name(name.as_str()).and_then(|name| name.active);
                let before = active.and_then(|id| self.row(id)?.previous).and_then(|id| self.row(id));
                next.answer(before.ok_or(vec!["NothingBefore"])?.id, false)?;
            }
            Change::Split { name, candidate, share, expect } => {
                self.expect(name.as_str(), *expect)?;
                let id = self.pick(name.as_str(), candidate)?;
                let mut reasons = self.unservable(id);
                match self.name(name.as_str()).and_then(|name| name.active) {
                    None => reasons.push("Inactive"),
                    Some(active) if active == id => reasons.push("InService"),
                    Some(_) => {}
                }
                none(reasons)?;
                next.named(name.as_str()).split = Some((id, (*share).into()));
            }
            Change::EndSplit { name, expect } => {
                self.expect(name.as_str(), *expect)?;
                next.named(name.as_str()).split = None;
            }
            Change::Retire { name, version, expect } => {
                self.expect(name.as_str(), *expect)?;
                for id in self.leaving(name.as_str(), version.as_ref())? {
                    next.rows
                        .iter_mut()
                        .filter(|row| row.id == id)
                        .for_each(|row| row.phase = Phase::Retired);
                }
                if version.is_none() {
                    let name = next.named(name.as_str());
                    (name.active, name.split) = (None, None);
                }
            }
            Change::Delete { name, version, is_buried, expect } => {
                self.expect(name.as_str(), *expect)?;
                for id in self.leaving(name.as_str(), version.as_ref())? {
                    let at = next.rows.iter().position(|row| row.id == id).expect("it was picked");
                    let row = next.rows.remove(at);
                    if let (true, Source::Folder { path, stamp }) = (*is_buried, row.source) {
                        next.graves.push((row.name, path, stamp, row.digest));
                    }
                }
                next.names.retain(|other| next.rows.iter().any(|row| row.name == other.name));
            }
            Change::Pin { name, is_pinned } => {
                self.expect(name.as_str(), None)?;
                next.named(name.as_str()).pinned = *is_pinned;
            }
            Change::Fault { id, reason } => {
                let row = next.rows.iter_mut().find(|row| row.id == id.0).ok_or(vec!["UnknownId"])?;
                if row.phase != Phase::Retired {
                    row.phase = reason.clone().map_or(Phase::Registered, |reason| Phase::Errored { reason });
                }
            }
            Change::Describe { id, about } => {
                let row = next.rows.iter_mut().find(|row| row.id == id.0).ok_or(vec!["UnknownId"])?;
                row.about = about.clone();
            }
            Change::Probe { id, probe } => {
                let row = next.rows.iter_mut().find(|row| row.id == id.0).ok_or(vec!["UnknownId"])?;
                row.probe = Some(probe.clone());
            }
        }
        Ok(next)
    }

    pub fn name(&self, name: &str) -> Option<&Name> {
        self.names.iter().find(|other| other.name == name)
    }

    pub fn row(&self, id: u64) -> Option<&Row> {
        self.rows.iter().find(|row| row.id == id)
    }

    pub fn rows_of(&self, name: &str) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.name == name)
    }

    fn named(&mut self, name: &str) -> &mut Name {
        self.names.iter_mut().find(|other| other.name == name).expect("it was looked for")
    }

    fn register(&mut self, new: &NewVersion, now: Timestamp) -> Result<(), Reasons> {
        let parts: Vec<_> = parts(&new.source).collect();
        let mut reasons: Reasons = parts.iter().flat_map(|id| self.unservable(*id)).collect();
        let known = self.rows_of(new.name.as_str()).find(|row| row.digest == new.digest).cloned();
        let taken =
            |label: &&semver::Version| self.rows_of(new.name.as_str()).any(|row| row.label == **label);
        let id = match &known {
            Some(row) => {
                let is_another = new.label.as_ref().is_some_and(|label| *label != row.label);
                is_another.then(|| reasons.push("ContentTaken"));
                parts.iter().any(|id| self.is_within(row.id, *id)).then(|| reasons.push("PartOf"));
                row.id
            }
            None => {
                new.label.as_ref().filter(taken).into_iter().for_each(|_| reasons.push("LabelTaken"));
                self.given + 1
            }
        };
        none(reasons)?;
        if known.as_ref().is_none_or(|row| row.source != new.source) {
            let is_it =
                |path: &PathBuf, digest: &Digest| Some(path) == new.source.folder() || *digest == new.digest;
            self.graves.retain(|(name, path, _, digest)| name != new.name.as_str() || !is_it(path, digest));
        }
        match self.rows.iter_mut().find(|row| row.id == id) {
            Some(row) => (row.source, row.phase) = (new.source.clone(), Phase::Registered),
            None => self.push(id, new, now),
        }
        let active = self.named(new.name.as_str()).active;
        match new.activate {
            Activate::Now if active != Some(id) => self.answer(id, true),
            Activate::IfVacant if active.is_none() => self.answer(id, true),
            Activate::Now | Activate::IfVacant | Activate::Never => Ok(()),
        }
    }

    fn push(&mut self, id: u64, new: &NewVersion, now: Timestamp) {
        let name = new.name.to_string();
        let highest = self.rows_of(&name).map(|row| row.label.clone()).max();
        let next = highest.map_or(semver::Version::new(1, 0, 0), |label| {
            semver::Version::new(label.major, label.minor, label.patch + 1)
        });
        self.rows.push(Row {
            id,
            name: name.clone(),
            label: new.label.clone().unwrap_or(next),
            digest: new.digest,
            source: new.source.clone(),
            created_at: now,
            previous: None,
            phase: Phase::Registered,
            about: new.about.clone(),
            probe: None,
        });
        self.given = id;
        if self.name(&name).is_none() {
            self.names.push(Name { name, ..Name::default() });
            self.names.sort_by(|one, other| one.name.cmp(&other.name));
        }
    }

    fn answer(&mut self, id: u64, is_step_on: bool) -> Result<(), Reasons> {
        none(self.unservable(id))?;
        let at = self.rows.iter().position(|row| row.id == id).expect("it may be served");
        let name = self.named(&self.rows[at].name.clone());
        let before = name.active.replace(id).filter(|before| *before != id && is_step_on);
        name.split = None;
        self.rows[at].previous = before.or(self.rows[at].previous);
        Ok(())
    }

    /// Those that `version`, or the whole name, means, if they may go.
    fn leaving(&self, name: &str, version: Option<&Selector>) -> Result<Vec<u64>, Reasons> {
        let mut reasons = vec![];
        let found = self.name(name).expect("it was looked for");
        let ids = match version {
            None => self.rows_of(name).map(|row| row.id).collect(),
            Some(selector) => {
                let id = self.pick(name, selector)?;
                let in_service = [found.active, found.split.map(|split| split.0)].contains(&Some(id));
                in_service.then(|| reasons.push("InService"));
                vec![id]
            }
        };
        let others = self.rows.iter().filter(|row| !ids.contains(&row.id));
        let is_needed = others.flat_map(|row| parts(&row.source)).any(|part| ids.contains(&part));
        is_needed.then(|| reasons.push("PartOf"));
        none(reasons).map(|()| ids)
    }

    fn expect(&self, name: &str, expect: Option<Digest>) -> Result<(), Reasons> {
        let active = self.name(name).ok_or(vec!["UnknownName"])?.active;
        let is_so = expect.is_none() || active.and_then(|id| self.row(id)).map(|row| row.digest) == expect;
        none(if is_so { vec![] } else { vec!["Conflict"] })
    }

    pub fn pick(&self, name: &str, selector: &Selector) -> Result<u64, Reasons> {
        let is_meant = |row: &&Row| match selector {
            Selector::Id(id) => row.id == id.0,
            Selector::Label(label) => row.label == *label,
            Selector::Digest(digits) => row.digest.to_hex().starts_with(digits),
        };
        let row = self.rows_of(name).filter(is_meant).last();
        row.map(|row| row.id).ok_or(vec!["UnknownVersion"])
    }

    pub fn unservable(&self, id: u64) -> Reasons {
        match self.row(id) {
            None => vec!["UnknownId"],
            Some(row) if row.phase == Phase::Retired => vec!["NotServable"],
            Some(_) => vec![],
        }
    }

    /// Whether `id` is `whole` or made of it.
    fn is_within(&self, whole: u64, id: u64) -> bool {
        let made_of = |row: &Row| parts(&row.source).any(|part| self.is_within(whole, part));
        id == whole || self.row(id).is_some_and(made_of)
    }
}

fn none(reasons: Reasons) -> Result<(), Reasons> {
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

fn parts(source: &Source) -> impl Iterator<Item = u64> {
    let parts = if let Source::Virtual { parts } = source { parts.as_slice() } else { &[] };
    parts.iter().map(|part| part.id.0)
}
