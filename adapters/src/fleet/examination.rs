//! What a folder holds, found out by reading it whole: the content behind a version.

use std::collections::BTreeMap;
use std::path::Path;

use polylora_registry::{About, Activate, BaseRef, Content, FilesStamp, NewVersion, Source};

use super::Fleet;
use crate::{
    AdapterError, AdapterManifest, AdapterName, AdapterSource, Base, Digest, LoadedAdapter, Refusal,
};

/// Times that one reading starts over because the files changed meanwhile.
const MAX_STARTS: usize = 3;

/// What a folder, or a sum of others, holds, without its values.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    pub(super) digest: Digest,
    pub(super) content: Content,
    pub(super) source: Source,
    pub(super) base: BaseRef,
    pub(super) about: About,
}

impl Fleet {
    /// Reads a folder, and again if its files change meanwhile.
    pub(super) fn examine(&self, source: &AdapterSource) -> Result<(LoadedAdapter, Holding), Refusal> {
        let (mut base, mut manifest) = self.bases.inspect(source)?;
        for _ in 0..MAX_STARTS {
            let loaded = self.read(&manifest, base)?;
            if !manifest.is_stale() {
                let holding = holding(&manifest, &loaded, base.reference.clone());
                return Ok((loaded, holding));
            }
            (base, manifest) = self.bases.inspect(source)?;
        }
        Err(Refusal::Changing { path: source.path().clone() })
    }

    fn read(&self, manifest: &AdapterManifest, base: &Base) -> Result<LoadedAdapter, Refusal> {
        let max = self.options.max_rank;
        if manifest.max_rank() > max {
            let file = manifest.folder().join(crate::CONFIG_FILE);
            return Err(AdapterError::RankAboveLimit { file, found: manifest.max_rank(), max }.into());
        }
        Ok(manifest.load(&*base.model)?)
    }

    /// What is held, to be registered under `name`: with the next free label, and inactive.
    pub(super) fn new_version(&self, name: &AdapterName, holding: Holding) -> NewVersion {
        let Holding { digest, content, source, base, about } = holding;
        NewVersion {
            name: name.clone(),
            label: None,
            digest,
            content,
            source,
            base,
            about,
            activate: Activate::Never,
        }
    }

    /// The state of a folder's files now; `None` when they are not there, or not where they may be.
    pub(super) fn stamp(&self, folder: &Path) -> Option<FilesStamp> {
        let source = self.roots.source(folder);
        source.check_place().ok()?;
        AdapterManifest::identity_now(folder, source.trust()).map(FilesStamp::from)
    }
}

fn holding(manifest: &AdapterManifest, loaded: &LoadedAdapter, base: BaseRef) -> Holding {
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
    let source = Source::Folder { path: manifest.folder().to_owned(), stamp: manifest.identity().into() };
    Holding { digest: loaded.digest, content, source, base, about }
}
