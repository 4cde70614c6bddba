//! What the entries of an adapters directory are, as far as it can be told without reading an adapter.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
};

use crate::{AdapterName, AdapterSource, CONFIG_FILE, MAX_ADAPTERS, NameError, OpenError, Refusal, Selector};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Hidden, a file, or no longer there: not to be looked into.
    Skipped,
    /// A folder without adapter_config.json.
    Bare,
    /// A folder with adapter_config.json.
    Adapter,
}

/// What the entry `name` at `source` is.
///
/// # Errors
/// When it leads out of its directory, or cannot be looked at.
pub(crate) fn look_at(name: &OsStr, source: &AdapterSource) -> Result<Entry, Refusal> {
    let path = source.path();
    let failed = |path: &Path, source| Refusal::Io { path: path.to_owned(), source };
    if is_hidden(name) {
        skipped(name, "hidden");
        return Ok(Entry::Skipped);
    }
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            skipped(name, "not a folder");
            return Ok(Entry::Skipped);
        }
        Ok(_) => {}
        // A link that leads nowhere is somebody's mistake and is said; an entry that went away is not.
        Err(_) if is_missing(path) => {
            skipped(name, "not there");
            return Ok(Entry::Skipped);
        }
        Err(error) => return Err(failed(path, error)),
    }
    // A link that leads out is not followed any further, not even to see whether an adapter is there.
    source.check_place()?;
    let config = path.join(CONFIG_FILE);
    match fs::symlink_metadata(&config) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Entry::Bare),
        Err(error) => Err(failed(&config, error)),
        Ok(_) => Ok(Entry::Adapter),
    }
}

/// Whether entries of that name are never looked at.
pub(crate) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Says that the entry `name` is no adapter, and why.
pub(crate) fn skipped(name: &OsStr, why: &str) {
    tracing::debug!(entry = ?name, why, "not an adapter");
}

/// The adapter's name that a folder's name is.
///
/// # Errors
/// When clients could not say it or logs not show it.
pub(crate) fn adapter_name(name: &OsStr) -> Result<AdapterName, NameError> {
    match name.to_str() {
        Some(name) if Selector::split(name).is_some() => {
            Err(NameError::LikeAVersion { found: name.to_owned() })
        }
        Some(name) => AdapterName::new(name),
        None => Err(NameError::NotUtf8 { found: format!("{name:?}") }),
    }
}

/// The adapters directory without links in its path: what sources are [within](AdapterSource::within).
pub(crate) fn real_path(directory: &Path) -> Result<PathBuf, OpenError> {
    directory.canonicalize().map_err(|source| OpenError::Io { directory: directory.to_owned(), source })
}

/// The adapters directory without links in its path, and the names of all its entries, sorted.
///
/// # Errors
/// When it cannot be listed or has more than [`MAX_ADAPTERS`] entries.
pub(crate) fn list(directory: &Path) -> Result<(PathBuf, Vec<OsString>), OpenError> {
    let failed = |source| OpenError::Io { directory: directory.to_owned(), source };
    let root = real_path(directory)?;
    let mut names = vec![];
    for entry in fs::read_dir(&root).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name());
        if names.len() > MAX_ADAPTERS {
            return Err(OpenError::TooMany { directory: directory.to_owned() });
        }
    }
    names.sort();
    Ok((root, names))
}

fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}
