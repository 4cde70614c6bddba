//! An adapter's folder: which files are opened, and what identifies them.

use std::{
    fs::{File, FileType, Metadata, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use polylora_registry::FileStamp;

use crate::AdapterError;

/// The configuration's file name.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The weights' file name.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// The weights' file name as a pickle, which is never read.
pub(super) const PICKLE_FILE: &str = "adapter_model.bin";

/// How far symbolic links of an adapter's files are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileTrust {
    /// Only to files within the adapter's folder: for folders that somebody else may write, such as the sub-folders
    /// of an adapters directory.
    WithinFolder,
    /// Anywhere: for a folder that the operator named, such as a snapshot of the Hugging Face cache, whose files
    /// are links into its store of blobs.
    FollowLinks,
}

/// What tells one state of a file from the next without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// Length in bytes.
    pub len: u64,
    /// Time of the last change, where the file system keeps it.
    pub modified: Option<SystemTime>,
    /// Device and inode, where the system has them.
    pub node: Option<(u64, u64)>,
}

impl FileIdentity {
    /// What the system says of a file.
    pub fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let node = {
            use std::os::unix::fs::MetadataExt;
            Some((metadata.dev(), metadata.ino()))
        };
        #[cfg(not(unix))]
        let node = None;
        Self { len: metadata.len(), modified: metadata.modified().ok(), node }
    }
}

impl From<FileIdentity> for FileStamp {
    fn from(file: FileIdentity) -> Self {
        let since = file.modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            len: file.len,
            modified_ns: since.and_then(|since| u64::try_from(since.as_nanos()).ok()),
            inode: file.node.map_or(0, |(_, inode)| inode),
        }
    }
}

/// A file that is open and was found to be regular and where it may be.
#[derive(Debug)]
pub(super) struct OpenFile {
    /// Its path as the user would name it.
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) identity: FileIdentity,
}

/// Opens the file `name` of `folder`; `None` when there is none.
pub(super) fn open(folder: &Path, name: &str, trust: FileTrust) -> Result<Option<OpenFile>, AdapterError> {
    let path = folder.join(name);
    let failed = |file: &Path, source: io::Error| AdapterError::Io { file: file.to_owned(), source };
    let real_folder = folder.canonicalize().map_err(|e| failed(folder, e))?;
    let real = match real_folder.join(name).canonicalize() {
        Ok(real) => real,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(&path, e)),
    };
    if trust == FileTrust::WithinFolder && !real.starts_with(&real_folder) {
        return Err(AdapterError::OutsideFolder { file: path, found: real, folder: real_folder });
    }
    // Looked at before opening, because opening some devices has effects; and after, because only what the handle
    // says is sure to be about what gets read.
    regular(&path, &real.metadata().map_err(|e| failed(&path, e))?)?;
    let file = open_resolved(&real).map_err(|e| failed(&path, e))?;
    let metadata = file.metadata().map_err(|e| failed(&path, e))?;
    regular(&path, &metadata)?;
    Ok(Some(OpenFile { path, file, identity: FileIdentity::of(&metadata) }))
}

/// All that a file holds, if that is at most `max` bytes.
pub(super) fn read_whole(open: OpenFile, max: u64) -> Result<Vec<u8>, AdapterError> {
    let OpenFile { path, file, identity } = open;
    let too_large = |found| AdapterError::ConfigTooLarge { file: path.clone(), found, max };
    if identity.len > max {
        return Err(too_large(identity.len));
    }
    let mut bytes = Vec::with_capacity(identity.len as usize);
    let failed = |source: io::Error| AdapterError::Io { file: path.clone(), source };
    // The file may have grown since its length was asked for.
    file.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

/// Opens a path that has no link left: one that appears in its place meanwhile is refused, and a pipe does not
/// block.
fn open_resolved(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    options.open(path)
}

fn regular(path: &Path, metadata: &Metadata) -> Result<(), AdapterError> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(AdapterError::NotRegularFile { file: path.to_owned(), found: kind_of(metadata.file_type()) })
}

fn kind_of(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a named pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_block_device() || kind.is_char_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a folder" } else { "a special file" }
}
