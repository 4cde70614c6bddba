//! Why one source did not serve. A pull keeps these, one for each source that it tried.

use std::io;
use std::path::{Path, PathBuf};

use crate::contents::{Mismatch, WantedFile};
use crate::error::StorageError;

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
    /// The model is given to nobody who has not accepted its terms.
    #[error(
        "the model is gated: accept its terms at {page}, then set HF_TOKEN to a token of that account ({})",
        if *had_token { "the one that is set may not read it" } else { "none is set" }
    )]
    Gated {
        /// The model's page.
        page: String,
        /// Whether a token was sent.
        had_token: bool,
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
