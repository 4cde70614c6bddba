//! What looking at folders of adapters comes to.

use std::{fmt, io, path::PathBuf, sync::Arc};

use crate::{AdapterManifest, Refusal};

/// Most sub-folders that are looked at.
pub const MAX_ADAPTERS: usize = 10_000;

/// Whether what was found can be served.
#[derive(Clone, Debug)]
pub enum Finding {
    /// Configuration, header, shapes and sites are right; tensors were not read.
    Served(Box<AdapterManifest>),
    /// Something is not.
    Refused(Arc<Refusal>),
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
}
