//! The folder in which a model is put together: files enter it verified, and it becomes the finished model in one rename.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::contents::{self, Checked, WantedFile};
use crate::error::StorageError;
use crate::names::FilePath;
use crate::source_error::SourceError;
use crate::store::{self, MARKER, Marker};

/// An unfinished model. Only the holder of the model's lock has one.
pub(crate) struct Staging {
    dir: PathBuf,
    target: PathBuf,
    accepted: BTreeMap<FilePath, Checked>,
}

impl Staging {
    /// Opens or creates the folder `dir`, to become `target`.
    pub(crate) fn open(dir: PathBuf, target: PathBuf) -> Result<Self, StorageError> {
        let staging = Self { dir, target, accepted: BTreeMap::new() };
        for folder in [staging.files(), staging.parts()] {
            fs::create_dir_all(&folder).map_err(StorageError::io("create folder", &folder))?;
        }
        Ok(staging)
    }

    /// Whether the file is here already: accepted in this run, left by one that broke off, or whole in a finished folder
    /// whose other files are not. What is taken over is hashed first.
    pub(crate) fn holds(&mut self, wanted: &WantedFile) -> Result<bool, StorageError> {
        if self.accepted.contains_key(&wanted.path) {
            return Ok(true);
        }
        let place = self.place(&wanted.path)?;
        if let Some(checked) = store::verified(&self.files(), wanted) {
            self.accepted.insert(wanted.path.clone(), checked);
            return Ok(true);
        }
        remove(&place)?;
        if store::verified(&self.target, wanted).is_some() {
            let part = self.part(wanted);
            let old = self.target.join(wanted.path.as_str());
            link_or_copy(&old, &part)?;
            return Ok(self.accept(wanted, &part).is_ok());
        }
        Ok(false)
    }

    /// Where the bytes of a file are gathered before they are verified. The name carries the first accepted digest, so
    /// that a broken transfer is never resumed into another content.
    pub(crate) fn part(&self, wanted: &WantedFile) -> PathBuf {
        let flat = wanted.path.as_str().replace('/', "~");
        let digest =
            wanted.accept.first().map_or_else(|| "unpinned".to_owned(), |pin| pin.digest.to_string());
        let digest: String = digest.chars().filter(char::is_ascii_alphanumeric).take(19).collect();
        self.parts().join(format!("{flat}.{digest}.part"))
    }

    /// Verifies the bytes at `part` and takes them in; deletes them when they are wrong.
    pub(crate) fn accept(&mut self, wanted: &WantedFile, part: &Path) -> Result<(), SourceError> {
        let checked = match contents::check(part, wanted) {
            Ok(checked) => checked,
            Err(mismatch) => {
                remove(part)?;
                return Err(SourceError::mismatch(wanted, part, mismatch));
            }
        };
        let synced = File::open(part).and_then(|file| file.sync_all());
        synced.map_err(StorageError::io("write", part))?;
        let place = self.place(&wanted.path)?;
        fs::rename(part, &place).map_err(StorageError::io("move a verified file to", &place))?;
        self.accepted.insert(wanted.path.clone(), checked);
        Ok(())
    }

    /// A folder for scratch files of a source; empty, and gone with the staging folder.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf, StorageError> {
        let path = self.dir.join(name);
        remove(&path)?;
        fs::create_dir_all(&path).map_err(StorageError::io("create folder", &path))?;
        Ok(path)
    }

    /// Forgets what was taken in, so that no source is given files of another unseen: `holds` then judges each anew, by
    /// hash, and what is not pinned has to come from the next source itself.
    pub(crate) fn forget(&mut self) {
        self.accepted.clear();
    }

    /// Files that were taken in.
    pub(crate) fn accepted(&self) -> &BTreeMap<FilePath, Checked> {
        &self.accepted
    }

    /// Turns the folder into the finished model, replacing a damaged one, and returns its path.
    ///
    /// `wanted` is the whole set: a file from an earlier run that is not in it is left out.
    pub(crate) fn commit(mut self, wanted: &[WantedFile], marker: &Marker) -> Result<PathBuf, StorageError> {
        self.accepted.retain(|path, _| wanted.iter().any(|file| file.path == *path));
        self.remove_strays(&self.files(), "")?;
        let files = self.files();
        let path = files.join(MARKER);
        let text = serde_json::to_vec_pretty(marker)
            .map_err(|e| StorageError::io("write", &path)(io::Error::other(e)))?;
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        written.map_err(StorageError::io("write", &path))?;
        sync_folder(&files)?;

        // Between the two renames a crash leaves no finished model, and all of its files verified in staging.
        let old = self.dir.join("old");
        remove(&old)?;
        match fs::rename(&self.target, &old) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(StorageError::io("replace", &self.target)(e));
            }
            _ => {}
        }
        fs::rename(&files, &self.target).map_err(StorageError::io("move the model to", &self.target))?;
        if let Some(parent) = self.target.parent() {
            sync_folder(parent)?;
        }
        remove(&self.dir)?;
        Ok(self.target)
    }

    fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    fn parts(&self) -> PathBuf {
        self.dir.join("parts")
    }

    /// Where a verified file lies; creates the folders above it.
    fn place(&self, path: &FilePath) -> Result<PathBuf, StorageError> {
        let place = self.files().join(path.as_str());
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).map_err(StorageError::io("create folder", parent))?;
        }
        Ok(place)
    }

    /// Removes what is below `folder` and was not accepted. `prefix` is `folder`'s path inside the model.
    fn remove_strays(&self, folder: &Path, prefix: &str) -> Result<(), StorageError> {
        let read = StorageError::io("read folder", folder);
        let entries: Vec<_> = fs::read_dir(folder).and_then(Iterator::collect).map_err(read)?;
        for entry in entries {
            let name = entry.file_name();
            let path = entry.path();
            let inside = format!("{prefix}{}", name.to_string_lossy());
            let is_dir = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
            let below = format!("{inside}/");
            if is_dir && self.accepted.keys().any(|kept| kept.as_str().starts_with(&below)) {
                self.remove_strays(&path, &below)?;
                sync_folder(&path)?;
            } else if !self.accepted.keys().any(|kept| kept.as_str() == inside) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Gives `from` a second name `to`, or copies it where the disk or its rights do not allow that. `from` must not be a link.
pub(crate) fn link_or_copy(from: &Path, to: &Path) -> Result<(), StorageError> {
    remove(to)?;
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map(drop).map_err(StorageError::io("copy a file to", to))
}

/// Removes a file, a link (not its target) or a folder; it is no error when there is none.
pub(crate) fn remove(path: &Path) -> Result<(), StorageError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StorageError::io("delete", path)(e)),
        _ => Ok(()),
    }
}

/// Makes the names in a folder last through a power cut.
fn sync_folder(path: &Path) -> Result<(), StorageError> {
    if cfg!(unix) {
        let synced = File::open(path).and_then(|folder| folder.sync_all());
        synced.map_err(StorageError::io("sync folder", path))?;
    }
    Ok(())
}
