//! What a folder holds, found out by reading it whole: the content behind a version.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use polylora_registry::{About, Content, FileStamp, FilesStamp, Source};

use super::Fleet;
use crate::{
    AdapterError, AdapterIdentity, AdapterManifest, AdapterSource, FileIdentity, LoadedAdapter, Refusal,
};

/// Times that one reading starts over because the files changed meanwhile.
const MAX_STARTS: usize = 3;

/// A content and where it was read.
#[derive(Clone, Debug)]
pub(super) struct Examined {
    pub(super) loaded: LoadedAdapter,
    pub(super) content: Content,
    pub(super) source: Source,
    pub(super) about: About,
}

impl Fleet {
    /// Reads a folder, and again if its files change meanwhile.
    pub(super) fn examine(&self, source: &AdapterSource) -> Result<Examined, Refusal> {
        let mut manifest = source.inspect(self.base.catalog())?;
        for _ in 0..MAX_STARTS {
            let loaded = self.read(&manifest)?;
            if !manifest.is_stale() {
                return Ok(examined(&manifest, loaded));
            }
            manifest = source.inspect(self.base.catalog())?;
        }
        Err(Refusal::Changing { path: source.path().clone() })
    }

    fn read(&self, manifest: &AdapterManifest) -> Result<LoadedAdapter, Refusal> {
        let max = self.options.max_rank;
        if manifest.max_rank() > max {
            let file = manifest.folder().join(crate::CONFIG_FILE);
            return Err(AdapterError::RankAboveLimit { file, found: manifest.max_rank(), max }.into());
        }
        Ok(manifest.load(&*self.base)?)
    }

    /// The state of a folder's files now; `None` when they are not there, or not where they may be.
    pub(super) fn stamp(&self, folder: &Path) -> Option<FilesStamp> {
        let source = self.roots.source(folder);
        source.check_place().ok()?;
        AdapterManifest::identity_now(folder, source.trust()).map(stamp)
    }
}

/// What identifies files, in the registry's form.
pub(super) fn stamp(identity: AdapterIdentity) -> FilesStamp {
    FilesStamp { config: file_stamp(identity.config), weights: file_stamp(identity.weights) }
}

/// The folder of a manifest as a version's source.
pub(super) fn folder_source(folder: PathBuf, identity: AdapterIdentity) -> Source {
    Source::Folder { path: folder, stamp: stamp(identity) }
}

fn file_stamp(file: FileIdentity) -> FileStamp {
    let since = file.modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    FileStamp {
        len: file.len,
        modified_ns: since.and_then(|since| u64::try_from(since.as_nanos()).ok()),
        inode: file.node.map_or(0, |(_, inode)| inode),
    }
}

fn examined(manifest: &AdapterManifest, loaded: LoadedAdapter) -> Examined {
    let content = Content {
        ranks: manifest.ranks(),
        targets: manifest.target_modules(),
        sites: manifest.targets(),
        bytes: loaded.extent.bytes() as u64,
        has_effect: !loaded.extent.layout().is_empty(),
    };
    let training = BTreeMap::from([("lora_alpha".to_owned(), manifest.alpha().into())]);
    let task_type = manifest.task_type().map(str::to_owned);
    let about = About { task_type, training, ..About::default() };
    let source = folder_source(manifest.folder().to_owned(), manifest.identity());
    Examined { loaded, content, source, about }
}
