//! Where adapters may lie: nothing outside is read, whatever a client says.

use std::io;
use std::path::{Path, PathBuf};

use crate::{AdapterName, AdapterSource, NameError};

/// The folders that adapters are read from.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// Scanned at the start, and looked into for names that are not known. Without links in its path.
    pub(super) scanned: Option<PathBuf>,
    /// Looked into only for names that are not known.
    pub(super) resolved: Option<PathBuf>,
    /// The one folder that a command names, and its name; its files may be links.
    pub(super) single: Option<(AdapterName, PathBuf)>,
}

/// Why a path is not read.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// There is no folder that it could lie in.
    #[error("no adapter can be loaded by path: the server runs without --adapters-dir and --lora-resolver")]
    NoRoots,
    /// It cannot be looked at.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// The path as it was given.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It lies elsewhere.
    #[error("{}: lies outside the folders of adapters ({allowed})", path.display())]
    Outside {
        /// The path as it was given.
        path: PathBuf,
        /// The folders.
        allowed: String,
    },
}

impl Roots {
    /// The folder of `--adapters-dir` and that of `--lora-resolver`.
    ///
    /// # Errors
    /// [`PathError::Io`] for one that is not there.
    pub fn new(scanned: Option<&Path>, resolved: Option<&Path>) -> Result<Self, PathError> {
        let real = |path: &Path| {
            let failed = |source| PathError::Io { path: path.to_owned(), source };
            path.canonicalize().map_err(failed)
        };
        Ok(Self {
            scanned: scanned.map(real).transpose()?,
            resolved: resolved.map(real).transpose()?,
            single: None,
        })
    }

    /// One folder that the operator named, under a name; its files may be links.
    ///
    /// # Errors
    /// [`NameError`] for what can be no name.
    pub fn single(name: &str, folder: &Path) -> Result<Self, NameError> {
        Ok(Self { single: Some((AdapterName::new(name)?, folder.to_owned())), ..Self::default() })
    }

    /// The folder that a client's path means, if it lies within the roots: no `..` and no link leads out. A relative path
    /// begins at the first root.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, PathError> {
        let first = self.all().next().ok_or(PathError::NoRoots)?;
        let failed = |source| PathError::Io { path: path.to_owned(), source };
        let real = first.join(path).canonicalize().map_err(failed)?;
        if self.all().any(|root| real.starts_with(root) && real != *root) {
            return Ok(real);
        }
        let allowed: Vec<_> = self.all().map(|root| root.display().to_string()).collect();
        Err(PathError::Outside { path: path.to_owned(), allowed: allowed.join(", ") })
    }

    /// The folder as a source whose files are trusted as far as the place where it lies.
    pub(super) fn source(&self, folder: &Path) -> AdapterSource {
        if self.single.as_ref().is_some_and(|(_, single)| single == folder) {
            return AdapterSource::named(folder.to_owned());
        }
        let root = self.all().find(|root| folder.starts_with(root)).or_else(|| self.all().next());
        // Without any root nothing is within: the folder itself is checked against a place that holds nothing.
        let root = root.cloned().unwrap_or_else(|| folder.join("no folder of adapters"));
        AdapterSource::within(folder.to_owned(), root)
    }

    /// The folders that are looked into for a name that is not known.
    pub(super) fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.scanned.iter().chain(self.resolved.iter())
    }
}
