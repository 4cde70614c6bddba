//! Where a named adapter comes from, and why what is there cannot be served.

use std::{io, path::PathBuf};

use crate::{AdapterError, AdapterManifest, ChangeError, FileTrust, MAX_VERSIONS, NameError, SiteCatalog};

/// Why a named adapter is not served.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Its folder has a name that clients could not say or logs not show.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Its folder is a link that leads out of the adapters directory.
    #[error(
        "{}: leads to {}, expected a folder inside {}; move or copy it there",
        path.display(), found.display(), directory.display()
    )]
    OutsideDirectory {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        found: PathBuf,
        /// The adapters directory.
        directory: PathBuf,
    },
    /// Its folder cannot be looked at.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Two folders of one adapter mean the same version.
    #[error("{}: is the same version as {}, expected one folder for it", path.display(), other.display())]
    SameVersion {
        /// The folder.
        path: PathBuf,
        /// The other one.
        other: PathBuf,
    },
    /// More sub-folders than are looked at.
    #[error("{}: has more than {MAX_VERSIONS} sub-folders; remove old versions", path.display())]
    TooManyVersions {
        /// The adapter's folder.
        path: PathBuf,
    },
    /// What its files contain.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// Its files hold another content than the version that was asked for.
    #[error("{}: its files were replaced: they are no longer those of {version}", path.display())]
    Replaced {
        /// The folder.
        path: PathBuf,
        /// The version.
        version: String,
    },
    /// Its folder is gone.
    #[error("{}: the folder is gone", path.display())]
    Vanished {
        /// The folder.
        path: PathBuf,
    },
    /// It was checked against another base model.
    #[error("it was registered for the base model {found}, this server has {expected}")]
    OtherBase {
        /// Registered for.
        found: String,
        /// Served.
        expected: String,
    },
    /// It is made of others that do not make it any more.
    #[error("the virtual adapter cannot be made: {reason}")]
    Virtual {
        /// Why.
        reason: String,
    },
    /// The registry does not take it.
    #[error("it cannot be registered: {source}")]
    Unregistered {
        /// Why.
        source: ChangeError,
    },
    /// Its files kept changing under the reader.
    #[error(
        "{}: its files changed while they were read; finish writing elsewhere and rename into place",
        path.display()
    )]
    Changing {
        /// The folder.
        path: PathBuf,
    },
}

impl Refusal {
    /// Whether nothing is known to be wrong but that the adapter's modules are not the base model's.
    fn is_of_another_model(&self) -> bool {
        matches!(
            self,
            Self::Adapter(
                AdapterError::TargetsMatchNothing { .. }
                    | AdapterError::ModuleUnknown { .. }
                    | AdapterError::WidthMismatch { .. }
            )
        )
    }
}

/// A folder that holds one adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSource {
    path: PathBuf,
    directory: Option<PathBuf>,
}

impl AdapterSource {
    /// A folder that the operator named: links are followed, as in a snapshot of the Hugging Face cache.
    pub fn named(path: PathBuf) -> Self {
        Self { path, directory: None }
    }

    /// A sub-folder of an adapters directory (`directory`, without links in its path): nothing outside that directory
    /// is read through it.
    pub(crate) fn within(path: PathBuf, directory: PathBuf) -> Self {
        Self { path, directory: Some(directory) }
    }

    /// The folder as it was named.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Checks that the folder is where it may be. Asked before every inspection, since a link can be led elsewhere at
    /// any time.
    pub(crate) fn check_place(&self) -> Result<(), Refusal> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let found =
            self.path.canonicalize().map_err(|source| Refusal::Io { path: self.path.clone(), source })?;
        if found.starts_with(directory) {
            return Ok(());
        }
        Err(Refusal::OutsideDirectory { path: self.path.clone(), found, directory: directory.clone() })
    }

    /// As [`AdapterSource::inspect`] against the sites of several base models in turn; gives the index of the first that it
    /// fits.
    ///
    /// # Errors
    /// Why it fits none: where it is right but for being another model's adapter, of the last; else of the first for which
    /// something else is wrong with it.
    ///
    /// # Panics
    /// When there are no catalogs.
    pub fn inspect_for(&self, catalogs: &[&SiteCatalog]) -> Result<(usize, AdapterManifest), Refusal> {
        let mut why = None;
        for (index, catalog) in catalogs.iter().enumerate() {
            match self.inspect(catalog) {
                Ok(manifest) => return Ok((index, manifest)),
                Err(refusal) if refusal.is_of_another_model() => why = Some(refusal),
                Err(refusal) => return Err(refusal),
            }
        }
        Err(why.expect("there is a base model"))
    }

    /// Checks place, configuration, header, shapes and sites; reads no tensors.
    ///
    /// # Errors
    /// Why the adapter cannot be served.
    pub fn inspect(&self, catalog: &SiteCatalog) -> Result<AdapterManifest, Refusal> {
        self.check_place()?;
        Ok(AdapterManifest::inspect(&self.path, self.trust(), catalog)?)
    }

    /// How far links of its files are followed.
    pub(crate) fn trust(&self) -> FileTrust {
        if self.directory.is_some() { FileTrust::WithinFolder } else { FileTrust::FollowLinks }
    }
}
