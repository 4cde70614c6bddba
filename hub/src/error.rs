//! Errors of a pull: what failed, where, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::contents::Mismatch;
use crate::contents::WantedFile;
use crate::names::NameError;

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
    /// Every source was tried.
    #[error(
        "model `{name}` could not be had: {}. Check the network, or put its files ({}) into a directory and pass \
         --embedding-model DIR",
        list(attempts),
        files.join(", ")
    )]
    NoSource {
        /// The model's name.
        name: String,
        /// All sources that were tried, in order, and why each failed.
        attempts: Vec<Attempt>,
        /// The files that the model cannot do without.
        files: Vec<String>,
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

/// Why one source did not serve.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// polylora's own cache failed while this source was being read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Switched off by a setting.
    #[error("skipped: {setting} is set")]
    Disabled {
        /// The setting.
        setting: &'static str,
    },
    /// A setting that it needs cannot be used.
    #[error("{setting}: {reason}")]
    Setting {
        /// The environment variable or option.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// It does not have the model.
    #[error("not there ({what})")]
    Absent {
        /// What was looked for.
        what: String,
    },
    /// It has the model in part.
    #[error("incomplete: {what}")]
    Incomplete {
        /// What is missing.
        what: String,
    },
    /// No connection, or no answer in time.
    #[error("{endpoint} cannot be reached: {reason}")]
    Unreachable {
        /// The host or endpoint.
        endpoint: String,
        /// The cause.
        reason: String,
    },
    /// An HTTP status that is no success.
    #[error("{url} answered {status}{}", status_advice(*status))]
    Status {
        /// The address.
        url: String,
        /// The status code.
        status: u16,
    },
    /// An answer that cannot be understood.
    #[error("{url}: {reason}")]
    BadAnswer {
        /// The address.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The transfer ended early, more often than it was resumed.
    #[error("{file}: the transfer broke off after {received} bytes{}: {reason}", of(*expected))]
    Truncated {
        /// The file.
        file: String,
        /// Bytes that are on disk; the next pull resumes there.
        received: u64,
        /// Bytes that it should have.
        expected: Option<u64>,
        /// The last cause.
        reason: String,
    },
    /// The content is not an accepted one. The file was deleted.
    #[error("{file} has the wrong content and was deleted: SHA-256 found {found}, expected {}", expected.join(" or "))]
    WrongHash {
        /// The file.
        file: String,
        /// Digests that are accepted.
        expected: Vec<String>,
        /// Digest and size that were found.
        found: String,
    },
    /// The file is larger than any accepted content. It was deleted.
    #[error("{file} is too large and was deleted: found {found} bytes or more, expected at most {expected}")]
    TooLarge {
        /// The file.
        file: String,
        /// Bytes that were seen.
        found: u64,
        /// Most bytes that are accepted.
        expected: u64,
    },
    /// An unpinned file that is not what its name says. It was deleted.
    #[error("{file} is not JSON and was deleted: {reason}")]
    NotJson {
        /// The file.
        file: String,
        /// What the parser says.
        reason: String,
    },
    /// A file of this source cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// No pip on this machine.
    #[error("no pip found (tried: {})", tried.join(", "))]
    NoPip {
        /// The commands that were tried.
        tried: Vec<String>,
    },
    /// pip ran and failed.
    #[error("`{command}` failed: {reason}")]
    Pip {
        /// The command.
        command: String,
        /// Its last error line, or why it was stopped.
        reason: String,
    },
    /// The wheel is not the archive that it should be.
    #[error("{file}: {reason}")]
    Wheel {
        /// The wheel's file name, and the member where one is at fault.
        file: String,
        /// What is wrong.
        reason: String,
    },
}

impl SourceError {
    /// The error for a file that was checked, did not match and was deleted.
    pub(crate) fn mismatch(wanted: &WantedFile, path: &Path, mismatch: Mismatch) -> Self {
        let file = wanted.path.to_string();
        match mismatch {
            Mismatch::Io(source) => StorageError::Io { action: "read", path: path.to_owned(), source }.into(),
            Mismatch::TooLarge { size } => Self::TooLarge { file, found: size, expected: wanted.max_size },
            Mismatch::Hash { found } => {
                let expected =
                    wanted.accept.iter().map(|pin| format!("{} ({} bytes)", pin.digest, pin.size)).collect();
                Self::WrongHash { file, expected, found }
            }
            Mismatch::NotJson { reason } => Self::NotJson { file, reason },
        }
    }
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

fn status_advice(status: u16) -> &'static str {
    match status {
        401 | 403 => {
            " (set HF_TOKEN to a token that may read it; a gated model's terms are accepted on its page)"
        }
        404 => " (no such repository, revision or file)",
        429 => " (too many requests; HF_TOKEN raises the limit)",
        _ => "",
    }
}

fn of(expected: Option<u64>) -> String {
    expected.map_or_else(String::new, |expected| format!(" of {expected}"))
}
