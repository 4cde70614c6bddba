//! The Hugging Face Hub as a source: a repository's file list, and its files.

use hf_hub::{Repo, RepoType};
use serde::Deserialize;

use crate::contents::{Digest, Pin, WantedFile};
use crate::error::StorageError;
use crate::file_set;
use crate::hub_config::HubConfig;
use crate::names::{self, FilePath};
use crate::progress::Progress;
use crate::source_error::SourceError;
use crate::staging::{self, Staging};
use crate::store::Store;
use crate::transfer::{Request, Transfer};

/// Largest file list, in bytes.
const MAX_LIST_BYTES: u64 = 32 << 20;

/// Largest file of which the Hub gives no size, in bytes.
const MAX_UNSIZED_BYTES: u64 = 64 << 30;

/// A repository at one commit, and which of its files belong to the model.
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<WantedFile>,
    /// Nobody knows whether there is more that an embedding model needs.
    pub(crate) only_generates: bool,
}

/// The Hub, or whatever endpoint stands for it.
pub(crate) struct Hub<'a> {
    config: &'a HubConfig,
    transfer: Transfer,
    repo: Repo,
}

impl<'a> Hub<'a> {
    pub(crate) fn new(config: &'a HubConfig, repo: &str, revision: &str) -> Result<Self, SourceError> {
        let repo = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
        Ok(Self { config, transfer: Transfer::new(config)?, repo })
    }

    /// Asks which files the repository has at its revision and what is known of each.
    pub(crate) fn list(&self) -> Result<Listing, SourceError> {
        let url = format!("{}/api/{}?blobs=true", self.config.endpoint, self.repo.api_url());
        let text = self.transfer.document(&url, MAX_LIST_BYTES)?;
        let bad = |reason: String| SourceError::BadAnswer { url: url.clone(), reason };
        let info: RepoInfo = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        names::check_revision(&info.sha).map_err(|e| bad(e.to_string()))?;
        let selected = file_set::select(info.siblings.iter().map(|file| file.rfilename.as_str()))
            .map_err(|e| SourceError::Incomplete { what: format!("{}: {e}", self.repo.url()) })?;
        let mut files = Vec::with_capacity(selected.len());
        for path in selected {
            let sibling = info.siblings.iter().find(|file| file.rfilename == path.as_str());
            files.push(wanted(path, sibling));
        }
        let unknown = files.iter().filter(|file| file.accept.is_empty()).count();
        if unknown > 0 {
            tracing::warn!(
                "{url} gives no hash for {unknown} of {} files: they are not verified",
                files.len()
            );
        }
        Ok(Listing { commit: info.sha, files, only_generates: false })
    }

    /// The same repository at the commit that was listed, so that all files are of one moment.
    pub(crate) fn at(mut self, commit: &str) -> Self {
        self.repo = Repo::with_revision(self.repo.url(), RepoType::Model, commit.to_owned());
        self
    }

    /// Brings every file that is not there yet into `staging`.
    pub(crate) fn fill(
        &self,
        files: &[WantedFile],
        staging: &mut Staging,
        store: &Store,
    ) -> Result<(), SourceError> {
        let mut missing = Vec::new();
        for wanted in files {
            if !staging.holds(wanted)? {
                missing.push(wanted);
            }
        }
        let there =
            |wanted: &WantedFile| std::fs::metadata(staging.part(wanted)).map_or(0, |meta| meta.len());
        let needed = |wanted: &&WantedFile| wanted.known_size().unwrap_or(0).saturating_sub(there(wanted));
        let needed = missing.iter().map(needed).fold(0, u64::saturating_add);
        let available = store.available()?;
        if needed > available {
            return Err(StorageError::NoSpace { path: store.root().to_owned(), needed, available }.into());
        }
        missing.into_iter().try_for_each(|wanted| self.fetch(wanted, staging))
    }

    /// Fetches one file. A wrong content after a resumption may be the old half's fault, so it is fetched whole once more.
    fn fetch(&self, wanted: &WantedFile, staging: &mut Staging) -> Result<(), SourceError> {
        let file = wanted.path.as_str();
        let url = format!(
            "{}/{}/resolve/{}/{file}",
            self.config.endpoint,
            self.repo.url(),
            self.repo.url_revision()
        );
        let part = staging.part(wanted);
        if wanted.accept.is_empty() {
            staging::remove(&part)?;
        }
        let request =
            Request { file, url: &url, part: &part, size: wanted.known_size(), limit: wanted.max_size };
        let mut whole = false;
        loop {
            let progress = Progress::begin(self.config.progress, file, wanted.known_size());
            let resumed = match self.transfer.fetch(&request, &progress) {
                Err(SourceError::Status { status: 404, .. }) if wanted.optional => return Ok(()),
                other => other?,
            };
            drop(progress);
            match staging.accept(wanted, &part) {
                Err(e @ SourceError::WrongHash { .. }) if resumed && !whole => {
                    tracing::warn!("{e}; fetching it whole");
                    whole = true;
                }
                other => return other,
            }
        }
    }
}

#[derive(Deserialize)]
struct RepoInfo {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<LfsBlob>,
}

#[derive(Deserialize)]
struct LfsBlob {
    sha256: String,
    size: u64,
}

/// What the Hub says of a file. The blob id of a large file is that of its pointer, so its own SHA-256 comes first.
fn wanted(path: FilePath, sibling: Option<&Sibling>) -> WantedFile {
    let pin = sibling.and_then(|file| match &file.lfs {
        Some(lfs) => Some(Pin { size: lfs.size, digest: Digest::from_hex(&lfs.sha256)? }),
        None => Some(Pin { size: file.size?, digest: Digest::from_hex(file.blob_id.as_ref()?)? }),
    });
    match pin {
        Some(pin) => WantedFile::pinned(path, pin),
        None => {
            let max_size = sibling.and_then(|file| file.size).unwrap_or(MAX_UNSIZED_BYTES);
            WantedFile { path, accept: Vec::new(), max_size, optional: false }
        }
    }
}
