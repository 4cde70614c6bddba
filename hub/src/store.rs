//! polylora's own cache of models: its folders, its lock and the marker of a finished model.
//!
//! ```text
//! <home>/models/<name>/                      a finished model, with its marker
//! <home>/models/.staging/<name>/files/       verified files of a model that is not finished yet
//! <home>/models/.staging/<name>/parts/       transfers that broke off
//! <home>/models/.locks/<name>.lock           held by whoever writes to the three folders above
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::contents::{self, Checked, Digest, WantedFile};
use crate::error::StorageError;
use crate::model_use::ModelUse;
use crate::names::FilePath;
use crate::staging::Staging;

/// Name of the marker inside a finished model's folder. No model file can have it: theirs never begin with a dot.
pub(crate) const MARKER: &str = ".polylora-model.json";

/// Largest marker that is read, in bytes.
const MAX_MARKER_BYTES: u64 = 4 << 20;

/// Version of the marker's form.
const MARKER_FORM: u32 = 1;

/// What a finished model's folder says of itself: written last, after all files were verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    pub(crate) form: u32,
    pub(crate) model: String,
    pub(crate) source: String,
    pub(crate) revision: Option<String>,
    pub(crate) files: BTreeMap<String, FileRecord>,
    /// It was taken from where nobody knew whether it has what an embedding model needs besides.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) only_generates: bool,
}

/// One verified file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub(crate) size: u64,
    pub(crate) sha256: String,
}

impl Marker {
    pub(crate) fn new(
        model: &str,
        source: impl ToString,
        revision: Option<String>,
        files: &BTreeMap<FilePath, Checked>,
    ) -> Self {
        let record = |checked: &Checked| FileRecord {
            size: checked.size,
            sha256: Digest::Sha256(checked.sha256).to_string(),
        };
        let files = files.iter().map(|(path, checked)| (path.to_string(), record(checked))).collect();
        let (model, source) = (model.to_owned(), source.to_string());
        Self { form: MARKER_FORM, model, source, revision, files, only_generates: false }
    }
}

/// The cache.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
}

/// The right to write one model. Released on drop, and by the system when the process dies.
pub(crate) struct StoreLock {
    _file: File,
}

impl Store {
    pub(crate) fn new(home: &Path) -> Self {
        Self { root: home.join("models") }
    }

    /// Where the finished model `folder` lies.
    pub(crate) fn path(&self, folder: &str) -> PathBuf {
        self.root.join(folder)
    }

    /// The finished model, where it is there and whole: its marker names every file wanted (`None`: whatever it names)
    /// with an accepted content, and each is a regular file of the recorded size. Contents were hashed when the marker
    /// was written and are not hashed again.
    pub(crate) fn finished(
        &self,
        folder: &str,
        wanted: Option<&[WantedFile]>,
        model_use: Option<ModelUse>,
    ) -> Option<PathBuf> {
        let path = self.path(folder);
        if !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            return None;
        }
        let marker = read_marker(&path.join(MARKER))?;
        if marker.only_generates && model_use != Some(ModelUse::Generation) {
            return None;
        }
        for (name, record) in &marker.files {
            let file = path.join(FilePath::new(name).ok()?.as_str());
            let meta = fs::symlink_metadata(file).ok()?;
            if !meta.is_file() || meta.len() != record.size {
                return None;
            }
        }
        let accepted = |file: &WantedFile| match marker.files.get(file.path.as_str()) {
            None => file.optional,
            Some(record) => {
                let known = Digest::from_hex(&record.sha256);
                file.accept.is_empty() || file.accept.iter().any(|pin| Some(pin.digest) == known)
            }
        };
        let whole = match wanted {
            Some(wanted) => wanted.iter().all(accepted),
            None => marker.files.contains_key("config.json"),
        };
        whole.then_some(path)
    }

    /// Waits for the right to write the model `folder`, and says so when another process has it.
    pub(crate) fn lock(&self, folder: &str) -> Result<StoreLock, StorageError> {
        let locks = self.root.join(".locks");
        fs::create_dir_all(&locks).map_err(StorageError::io("create folder", &locks))?;
        let path = locks.join(format!("{folder}.lock"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(StorageError::io("create", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                tracing::info!("another process is fetching {folder}; waiting for it");
                file.lock().map_err(StorageError::io("lock", &path))?;
            }
            Err(TryLockError::Error(e)) => return Err(StorageError::io("lock", &path)(e)),
        }
        Ok(StoreLock { _file: file })
    }

    /// The folder in which the model is put together. The lock shows that nobody else is at it.
    pub(crate) fn staging(&self, folder: &str, _lock: &StoreLock) -> Result<Staging, StorageError> {
        Staging::open(self.root.join(".staging").join(folder), self.path(folder))
    }

    /// Bytes that may still be written where models are kept.
    pub(crate) fn available(&self) -> Result<u64, StorageError> {
        fs4::available_space(&self.root).map_err(StorageError::io("measure the free space of", &self.root))
    }

    /// The folder of all models.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

/// Hashes a file that lies in `folder` already, and gives its record when it is a pinned one with an accepted content.
pub(crate) fn verified(folder: &Path, wanted: &WantedFile) -> Option<Checked> {
    let file = folder.join(wanted.path.as_str());
    let regular = fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_file());
    if wanted.accept.is_empty() || !regular {
        return None;
    }
    contents::check(&file, wanted).ok()
}

fn read_marker(path: &Path) -> Option<Marker> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(MAX_MARKER_BYTES).read_to_end(&mut text).ok()?;
    let marker: Marker = serde_json::from_slice(&text).ok()?;
    (marker.form == MARKER_FORM).then_some(marker)
}
