//! A directory of adapters: each sub-folder with an adapter_config.json is one, under the folder's name.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;

use crate::{AdapterManifest, AdapterName, AdapterSource, CONFIG_FILE, NameError, Refusal, SiteCatalog};

/// Most sub-folders that are looked at.
pub const MAX_ADAPTERS: usize = 10_000;

/// Whether what was found can be served.
#[derive(Clone, Debug)]
pub enum Finding {
    /// Configuration, header, shapes and sites are right; tensors were not read.
    Served(AdapterManifest),
    /// Something is not.
    Refused(Arc<Refusal>),
}

/// One adapter that was found.
#[derive(Clone, Debug)]
pub struct FoundAdapter {
    /// Its folder.
    pub source: AdapterSource,
    /// Whether it can be served.
    pub finding: Finding,
}

/// A sub-folder that cannot be served.
#[derive(Clone, Debug)]
pub struct RefusedFolder {
    /// Its name, made safe to show.
    pub name: String,
    /// Why.
    pub reason: Arc<Refusal>,
}

impl fmt::Display for RefusedFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

/// Why a directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is no folder, or cannot be listed.
    #[error("adapters directory {}: cannot be listed: {source}", directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// It holds more than is looked at.
    #[error("adapters directory {}: has more than {MAX_ADAPTERS} entries; split it", directory.display())]
    TooMany {
        /// The directory.
        directory: PathBuf,
    },
    /// Some adapters are refused, and all were asked for.
    #[error("{}", all_refused(refused))]
    Refused {
        /// Those, by name.
        refused: Vec<RefusedFolder>,
    },
}

/// What a directory held when it was opened: a map by name, so that a client's words never become a path.
#[derive(Clone, Debug, Default)]
pub struct AdapterDirectory {
    adapters: BTreeMap<AdapterName, FoundAdapter>,
    nameless: Vec<RefusedFolder>,
}

impl AdapterDirectory {
    /// Lists `directory` and inspects every adapter in it, in parallel. Hidden entries, files, and folders without
    /// adapter_config.json are skipped; a bad adapter is a [`Finding::Refused`] and logged, not an error.
    ///
    /// # Errors
    /// When the directory cannot be listed or holds more than [`MAX_ADAPTERS`] entries.
    pub fn open(directory: &Path, catalog: &SiteCatalog) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { directory: directory.to_owned(), source };
        let root = directory.canonicalize().map_err(failed)?;
        let mut names: Vec<OsString> = vec![];
        for entry in fs::read_dir(&root).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
            if names.len() > MAX_ADAPTERS {
                return Err(OpenError::TooMany { directory: directory.to_owned() });
            }
        }
        names.sort();
        let found: Vec<_> = names
            .into_par_iter()
            .filter_map(|name| {
                let source = AdapterSource::within(directory.join(&name), root.clone());
                let outcome = look_at(&name, &source, catalog)?;
                Some((name, source, outcome))
            })
            .collect();
        let mut opened = Self::default();
        for (name, source, outcome) in found {
            let checked = match name.to_str() {
                Some(name) => AdapterName::new(name),
                None => Err(NameError::NotUtf8 { found: format!("{name:?}") }),
            };
            let (name, finding) = match (checked, outcome) {
                (Err(error), _) => {
                    opened.nameless(&name, error.into());
                    continue;
                }
                (Ok(name), Ok(manifest)) => (name, Finding::Served(manifest)),
                (Ok(name), Err(refusal)) => (name, Finding::Refused(Arc::new(refusal))),
            };
            opened.insert(name, FoundAdapter { source, finding });
        }
        Ok(opened)
    }

    /// One adapter in a folder that the operator named; its files may be links.
    pub fn single(name: AdapterName, folder: &Path, catalog: &SiteCatalog) -> Self {
        let source = AdapterSource::named(folder.to_owned());
        let finding = match source.inspect(catalog) {
            Ok(manifest) => Finding::Served(manifest),
            Err(refusal) => Finding::Refused(Arc::new(refusal)),
        };
        let mut opened = Self::default();
        opened.insert(name, FoundAdapter { source, finding });
        opened
    }

    /// The directory when nothing in it is refused.
    ///
    /// # Errors
    /// [`OpenError::Refused`] with every refused folder and its reason.
    pub fn strict(self) -> Result<Self, OpenError> {
        let refused = self.refused();
        if refused.is_empty() { Ok(self) } else { Err(OpenError::Refused { refused }) }
    }

    /// The adapter of that name, served or refused.
    pub fn get(&self, name: &str) -> Option<&FoundAdapter> {
        self.adapters.get(name)
    }

    /// The adapters that can be served, by name.
    pub fn served(&self) -> impl Iterator<Item = (&AdapterName, &AdapterManifest)> {
        self.adapters.iter().filter_map(|(name, found)| match &found.finding {
            Finding::Served(manifest) => Some((name, manifest)),
            Finding::Refused(_) => None,
        })
    }

    /// The folders that cannot be served: by name, then those whose names are none.
    pub fn refused(&self) -> Vec<RefusedFolder> {
        let named = self.adapters.iter().filter_map(|(name, found)| match &found.finding {
            Finding::Served(_) => None,
            Finding::Refused(reason) => {
                Some(RefusedFolder { name: name.to_string(), reason: Arc::clone(reason) })
            }
        });
        named.chain(self.nameless.iter().cloned()).collect()
    }

    /// What has a name and what has none, for the store that watches it from here on.
    pub(crate) fn into_parts(self) -> (BTreeMap<AdapterName, FoundAdapter>, Vec<RefusedFolder>) {
        (self.adapters, self.nameless)
    }

    fn insert(&mut self, name: AdapterName, found: FoundAdapter) {
        if let Finding::Refused(reason) = &found.finding {
            tracing::warn!(adapter = ?name, %reason, "adapter refused");
        }
        self.adapters.insert(name, found);
    }

    fn nameless(&mut self, name: &OsString, reason: Refusal) {
        tracing::warn!(adapter = ?name, %reason, "adapter refused");
        self.nameless.push(RefusedFolder { name: format!("{name:?}"), reason: Arc::new(reason) });
    }
}

/// What the entry `name` is; `None` when it is no adapter.
fn look_at(
    name: &OsString,
    source: &AdapterSource,
    catalog: &SiteCatalog,
) -> Option<Result<AdapterManifest, Refusal>> {
    let path = source.path();
    let skip = |why| {
        tracing::debug!(entry = ?name, why, "not an adapter");
        None
    };
    if name.as_encoded_bytes().starts_with(b".") {
        return skip("hidden");
    }
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => return skip("not a folder"),
        Ok(_) => {}
        Err(source) => return Some(Err(Refusal::Io { path: path.clone(), source })),
    }
    // A link that leads out is not followed any further, not even to see whether an adapter is there.
    if let Err(refusal) = source.check_place() {
        return Some(Err(refusal));
    }
    match fs::symlink_metadata(path.join(CONFIG_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => skip("no adapter_config.json"),
        Err(source) => Some(Err(Refusal::Io { path: path.join(CONFIG_FILE), source })),
        Ok(_) => Some(source.inspect(catalog)),
    }
}

/// How many are refused, then each with its reason on a line of its own.
fn all_refused(refused: &[RefusedFolder]) -> String {
    let verb = if refused.len() == 1 { "adapter is" } else { "adapters are" };
    let lines: String = refused.iter().map(|folder| format!("\n  {folder}")).collect();
    format!("{} {verb} refused:{lines}", refused.len())
}
