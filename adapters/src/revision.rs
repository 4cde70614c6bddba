//! One state of an adapter's folder: what inspecting it said, and what came of reading it.

use std::{path::PathBuf, sync::Arc};

use parking_lot::Mutex;

use crate::{AdapterIdentity, AdapterManifest, Digest, Finding, Refusal};

/// One state of a folder.
pub(crate) struct Revision {
    pub(crate) finding: Finding,
    last_load: Mutex<LastLoad>,
}

/// What came of reading a revision's tensors.
#[derive(Clone)]
enum LastLoad {
    NotYet,
    Loaded(Digest),
    Failed(Arc<Refusal>),
}

impl Revision {
    pub(crate) fn new(finding: Finding) -> Arc<Self> {
        Arc::new(Self { finding, last_load: Mutex::new(LastLoad::NotYet) })
    }

    /// What can be served and the digest, once known; or why nothing can.
    pub(crate) fn seen(&self) -> Result<(&AdapterManifest, Option<Digest>), Arc<Refusal>> {
        match (&self.finding, self.last_load.lock().clone()) {
            (Finding::Refused(reason), _) => Err(Arc::clone(reason)),
            (Finding::Served(_), LastLoad::Failed(reason)) => Err(reason),
            (Finding::Served(manifest), LastLoad::Loaded(digest)) => Ok((manifest, Some(digest))),
            (Finding::Served(manifest), LastLoad::NotYet) => Ok((manifest, None)),
        }
    }

    /// Notes that the tensors were read.
    pub(crate) fn loaded(&self, digest: Digest) {
        *self.last_load.lock() = LastLoad::Loaded(digest);
    }

    /// Notes that the tensors cannot be used.
    pub(crate) fn failed(&self, reason: Arc<Refusal>) {
        *self.last_load.lock() = LastLoad::Failed(reason);
    }
}

/// One state of one adapter's files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey {
    folder: PathBuf,
    identity: AdapterIdentity,
}

impl CacheKey {
    pub(crate) fn of(manifest: &AdapterManifest) -> Self {
        Self { folder: manifest.folder().to_owned(), identity: manifest.identity() }
    }
}
