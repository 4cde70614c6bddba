//! The versions that an adapters directory holds.
//!
//! `DIR/NAME/adapter_config.json` is the adapter NAME, without a label. `DIR/NAME/v1.2.0/adapter_config.json` (or
//! `1.2.0`) is its version 1.2.0 (<https://semver.org>), and `DIR/NAME/checkpoint-500/adapter_config.json`, as the
//! trainer of transformers saves it, is its version 0.0.500: what stands beside checkpoints without a label is where
//! training ended, so it is the newest.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Component, Path},
    sync::Arc,
};

use rayon::prelude::*;
use semver::Version;

use crate::{
    AdapterName, AdapterSource, Finding, OpenError, Refusal, RefusedFolder, SiteCatalog,
    directory_entry::{Entry, adapter_name, is_hidden, list, look_at, real_path, skipped},
};

/// Most sub-folders that one adapter's folder may have.
pub const MAX_VERSIONS: usize = 1_000;

/// One version of an adapter that was found.
#[derive(Clone, Debug)]
pub struct FoundVersion {
    /// The adapter.
    pub name: AdapterName,
    /// Which version; `None` for what stands in the adapter's own folder.
    pub label: Option<Version>,
    /// Its folder.
    pub source: AdapterSource,
    /// Whether it can be served.
    pub finding: Finding,
}

/// What an adapters directory held at one moment.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// By name, then the oldest first: labels ascending, the unlabelled version last. No label occurs twice under one
    /// name.
    pub versions: Vec<FoundVersion>,
    /// Folders with versions whose names are none.
    pub nameless: Vec<RefusedFolder>,
}

impl Layout {
    /// Lists `directory` and inspects every version in it against the base models' catalogs, in parallel. Skipped are hidden entries, files, folders with
    /// neither adapter_config.json nor versions, and sub-folders of an adapter that are no version. What is bad, or
    /// leads out of the directory by a link, is a [`Finding::Refused`], not an error, and does not hold up the rest.
    ///
    /// # Errors
    /// When the directory cannot be listed or has more than [`MAX_ADAPTERS`](crate::MAX_ADAPTERS) entries.
    pub fn scan(directory: &Path, catalogs: &[&SiteCatalog]) -> Result<Self, OpenError> {
        let (root, names) = list(directory)?;
        let found: Vec<(OsString, Vec<Unnamed>)> = names
            .into_par_iter()
            .map(|name| {
                let source = AdapterSource::within(directory.join(&name), root.clone());
                let versions = versions_at(&name, source, &root, catalogs);
                (name, versions)
            })
            .filter(|(_, versions)| !versions.is_empty())
            .collect();
        let mut layout = Self::default();
        for (folder, versions) in found {
            match adapter_name(&folder) {
                Ok(name) => layout.versions.extend(versions.into_iter().map(|v| v.named(&name))),
                Err(error) => layout
                    .nameless
                    .push(RefusedFolder { name: format!("{folder:?}"), reason: Arc::new(error.into()) }),
            }
        }
        Ok(layout)
    }

    /// The versions of the adapter `name` alone, as [`Layout::scan`] finds them; empty when there are none.
    ///
    /// # Errors
    /// When `directory` is not there.
    pub fn scan_adapter(
        directory: &Path,
        name: &AdapterName,
        catalogs: &[&SiteCatalog],
    ) -> Result<Self, OpenError> {
        let root = real_path(directory)?;
        let folder = OsStr::new(name.as_str());
        // A name is one component on every system but those with drives (`C:x`).
        let mut components = Path::new(folder).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
            return Ok(Self::default());
        }
        let source = AdapterSource::within(directory.join(folder), root.clone());
        let versions = versions_at(folder, source, &root, catalogs);
        Ok(Self { versions: versions.into_iter().map(|v| v.named(name)).collect(), nameless: vec![] })
    }
}

/// A version before its adapter's name was judged.
struct Unnamed {
    label: Option<Version>,
    source: AdapterSource,
    finding: Finding,
}

impl Unnamed {
    fn inspect(label: Option<Version>, source: AdapterSource, catalogs: &[&SiteCatalog]) -> Self {
        let finding = match source.inspect_for(catalogs) {
            Ok((_, manifest)) => Finding::Served(Box::new(manifest)),
            Err(refusal) => Finding::Refused(Arc::new(refusal)),
        };
        Self { label, source, finding }
    }

    fn refused(label: Option<Version>, source: AdapterSource, refusal: Refusal) -> Self {
        Self { label, source, finding: Finding::Refused(Arc::new(refusal)) }
    }

    fn named(self, name: &AdapterName) -> FoundVersion {
        let Self { label, source, finding } = self;
        FoundVersion { name: name.clone(), label, source, finding }
    }
}

/// The versions in the folder `name` at `source`, the oldest first; none when it is no adapter.
fn versions_at(name: &OsStr, source: AdapterSource, root: &Path, catalogs: &[&SiteCatalog]) -> Vec<Unnamed> {
    let entry = match look_at(name, &source) {
        Ok(Entry::Skipped) => return vec![],
        Ok(entry) => entry,
        Err(refusal) => return vec![Unnamed::refused(None, source, refusal)],
    };
    let mut labelled = match labelled_folders(&source) {
        Ok(labelled) => labelled,
        Err(refusal) => return vec![Unnamed::refused(None, source, refusal)],
    };
    labelled.sort();
    let mut seen: Vec<(Version, AdapterSource, Result<(), Refusal>)> = vec![];
    for (label, folder) in labelled {
        let version = AdapterSource::within(source.path().join(&folder), root.to_owned());
        let outcome = match look_at(&folder, &version) {
            Ok(Entry::Skipped) => continue,
            Ok(Entry::Bare) => {
                skipped(version.path().as_os_str(), "no adapter_config.json");
                continue;
            }
            Ok(Entry::Adapter) => Ok(()),
            Err(refusal) => Err(refusal),
        };
        match seen.last_mut() {
            Some((last, first, outcome)) if *last == label => {
                let (path, other) = (version.path().clone(), first.path().clone());
                *outcome = Err(Refusal::SameVersion { path, other });
            }
            _ => seen.push((label, version, outcome)),
        }
    }
    let inspected = seen.into_par_iter().map(|(label, source, outcome)| match outcome {
        Ok(()) => Unnamed::inspect(Some(label), source, catalogs),
        Err(refusal) => Unnamed::refused(Some(label), source, refusal),
    });
    let mut versions: Vec<Unnamed> = inspected.collect();
    match entry {
        Entry::Adapter => versions.push(Unnamed::inspect(None, source, catalogs)),
        _ if versions.is_empty() => skipped(name, "neither adapter_config.json nor versions"),
        _ => {}
    }
    versions
}

/// The entries of an adapter's folder whose names are labels.
fn labelled_folders(source: &AdapterSource) -> Result<Vec<(Version, OsString)>, Refusal> {
    let path = source.path();
    let failed = |source| Refusal::Io { path: path.clone(), source };
    let (mut labelled, mut folders) = (vec![], 0);
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Whatever is no plain file may be a folder.
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        folders += 1;
        if folders > MAX_VERSIONS {
            return Err(Refusal::TooManyVersions { path: path.clone() });
        }
        let folder = entry.file_name();
        match folder.to_str().and_then(label_of) {
            Some(label) => labelled.push((label, folder)),
            None if is_hidden(&folder) => {}
            None => skipped(entry.path().as_os_str(), "its name is neither a version nor a checkpoint"),
        }
    }
    Ok(labelled)
}

/// The version that a folder's name means.
fn label_of(folder: &str) -> Option<Version> {
    if let Some(step) = folder.strip_prefix("checkpoint-") {
        let number: u64 = step.parse().ok()?;
        // `+5` and `05` are numbers, but no trainer's.
        return (number.to_string() == step).then_some(Version::new(0, 0, number));
    }
    Version::parse(folder.strip_prefix('v').unwrap_or(folder)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_whole_semantic_version_or_a_checkpoints_step() {
        let version = |text: &str| Version::parse(text).ok();
        for (folder, label) in [
            ("v1.2.0", "1.2.0"),
            ("1.2.0", "1.2.0"),
            ("v2.0.0-rc.1", "2.0.0-rc.1"),
            ("1.0.0+night", "1.0.0+night"),
            ("checkpoint-500", "0.0.500"),
            ("checkpoint-0", "0.0.0"),
            ("checkpoint-18446744073709551615", "0.0.18446744073709551615"),
        ] {
            assert_eq!(label_of(folder), version(label), "{folder}");
        }
        for folder in [
            "",
            "v",
            "1",
            "v1",
            "v1.2",
            "vv1.2.0",
            "V1.2.0",
            "1.2.0.0",
            "01.2.0",
            " 1.2.0",
            "1.2.0 ",
            "latest",
            "checkpoint-",
            "checkpoint-+5",
            "checkpoint-05",
            "checkpoint--5",
            "checkpoint-1.2.0",
            "checkpoint-18446744073709551616",
            "checkpoint-5-old",
            "vcheckpoint-5",
        ] {
            assert_eq!(label_of(folder), None, "{folder}");
        }
    }
}
