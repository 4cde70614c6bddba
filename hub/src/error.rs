//! Errors of a pull as a whole, and of the disk: what failed, where, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::model_use::ModelUse;
use crate::names::NameError;
use crate::source_error::SourceError;

/// Where a model's files were taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A directory that the user named; used where it lies.
    Directory,
    /// polylora's own cache.
    Store,
    /// The Hugging Face cache on this disk.
    HubCache,
    /// The Hugging Face Hub, or the endpoint that stands for it.
    Hub,
    /// A wheel, fetched by this machine's pip.
    Wheel,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::Store => "polylora cache",
            Self::HubCache => "Hugging Face cache",
            Self::Hub => "Hugging Face Hub",
            Self::Wheel => "Python package",
        })
    }
}

/// A source that was tried in vain.
#[derive(Debug)]
pub struct Attempt {
    /// The source.
    pub source: Source,
    /// Why it did not serve.
    pub reason: SourceError,
}

/// A model that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The name cannot be a model's.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A path was given and nothing usable is there.
    #[error("`{}` is no model directory: {reason}", path.display())]
    Directory {
        /// The path as it was given.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// The name is neither in the catalogue nor a Hub repository.
    #[error(
        "model `{name}` is not known; known are: {}. Give one of these, a Hub repository as owner/name, or a directory",
        known.join(", ")
    )]
    Unknown {
        /// The name as it was given.
        name: String,
        /// All names in the catalogue.
        known: Vec<String>,
    },
    /// The name is that of a model for something else.
    #[error("model `{name}` {found}: pass it as {flag}")]
    OtherUse {
        /// Its name in the catalogue.
        name: String,
        /// What it is for.
        found: ModelUse,
        /// The flag that takes it.
        flag: &'static str,
    },
    /// Every source was tried.
    #[error(
        "model `{name}` could not be had: {}. {}put its files ({}) into a directory and pass {flag} DIR",
        list(attempts),
        if attempts.iter().any(is_gated) { "Or " } else { "Check the network, or " },
        files.join(", ")
    )]
    NoSource {
        /// The model's name.
        name: String,
        /// All sources that were tried, in order, and why each failed.
        attempts: Vec<Attempt>,
        /// The files that the model cannot do without.
        files: Vec<String>,
        /// The flag that takes a directory.
        flag: &'static str,
    },
    /// polylora's own cache cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A failure of the disk below polylora's own cache. No other source would mend it, so the pull ends.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The files would not fit.
    #[error(
        "not enough space in {}: {needed} bytes are needed and {available} are free; free some, or set POLYLORA_HOME to \
         another disk",
        path.display()
    )]
    NoSpace {
        /// The cache's folder.
        path: PathBuf,
        /// Bytes that are still to be fetched.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
}

impl StorageError {
    /// For `map_err`: adds what was attempted, and where.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

fn is_gated(attempt: &Attempt) -> bool {
    matches!(attempt.reason, SourceError::Gated { .. })
}

fn list(attempts: &[Attempt]) -> String {
    let each: Vec<String> =
        attempts.iter().map(|attempt| format!("{}: {}", attempt.source, attempt.reason)).collect();
    each.join("; ")
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (free some space, or set POLYLORA_HOME to another disk)"
        }
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory => " (set POLYLORA_HOME to a folder that this user may write)",
        _ => "",
    }
}
