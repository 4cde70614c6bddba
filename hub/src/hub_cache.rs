//! The Hugging Face cache on this disk as a source: `models--owner--name/{blobs,refs,snapshots}`.
//!
//! Files of a snapshot are links to blobs of the same repository. A link that leads anywhere else is not followed.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};

use crate::contents::{Digest, Pin, WantedFile};
use crate::file_set;
use crate::hub::Listing;
use crate::model_use::ModelUse;
use crate::names::{self, FilePath};
use crate::source_error::SourceError;
use crate::staging::{self, Staging};

/// Largest `modules.json` that is read, in bytes.
const MAX_MODULES_BYTES: u64 = 1 << 20;

/// One repository in the cache.
pub(crate) struct HubCache {
    cache: Cache,
    repo: Repo,
    folder: PathBuf,
}

impl HubCache {
    pub(crate) fn new(root: &Path, repo: &str, revision: &str) -> Self {
        let repo = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
        let folder = root.join(repo.folder_name());
        Self { cache: Cache::new(root.to_owned()), repo, folder }
    }

    /// Takes a catalogued model: from the snapshot of its revision, or from any other whose files have accepted contents.
    /// Returns the snapshot's commit.
    pub(crate) fn fill(&self, files: &[WantedFile], staging: &mut Staging) -> Result<String, SourceError> {
        let mut last = self.absent();
        for commit in self.commits(true) {
            staging.forget();
            match self.take(&commit, files, staging) {
                Ok(()) => return Ok(commit),
                Err(e @ SourceError::Storage(_)) => return Err(e),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Finds the model's files in the snapshot of the asked revision, with the contents that their blobs' names state.
    ///
    /// A snapshot holds what some program once asked for, so files may be lacking that the repository has. It is taken
    /// only when it shows that it is complete: `modules.json` and all that it names are there, or the cache has a note
    /// that the repository has no `modules.json`. Otherwise pooling would be a guess; a model that is wanted for generation
    /// has none.
    pub(crate) fn list(&self, model_use: Option<ModelUse>) -> Result<Listing, SourceError> {
        let Some(commit) = self.commits(false).into_iter().next() else {
            return Err(self.absent());
        };
        let snapshot = self.snapshot(&commit);
        let incomplete =
            |what: String| SourceError::Incomplete { what: format!("{}: {what}", snapshot.display()) };
        let names = file_names(&snapshot)?;
        let selected =
            file_set::select(names.iter().map(String::as_str)).map_err(|e| incomplete(e.to_string()))?;
        let has = |path: &str| selected.iter().any(|file| file.as_str() == path);
        let has_note = self.folder.join(".no_exist").join(&commit).join("modules.json").exists();
        let mut only_generates = false;
        if has("modules.json") {
            let path = self.blob(&snapshot, "modules.json")?;
            let read = |source| SourceError::Read { path: path.clone(), source };
            if fs::metadata(&path).map_err(read)?.len() > MAX_MODULES_BYTES {
                return Err(incomplete("modules.json is larger than 1 MiB".to_owned()));
            }
            let text = fs::read(&path).map_err(read)?;
            let configs =
                file_set::module_configs(&text).map_err(|e| incomplete(format!("modules.json: {e}")))?;
            if let Some(config) = configs.iter().find(|config| !has(config)) {
                return Err(incomplete(format!("modules.json names {config}, which is not there")));
            }
        } else if model_use == Some(ModelUse::Generation) {
            only_generates = !has_note;
        } else if !has_note {
            return Err(incomplete("modules.json is not there, and may be on the Hub".to_owned()));
        }
        let files =
            selected.into_iter().map(|path| self.wanted(&snapshot, path)).collect::<Result<_, _>>()?;
        Ok(Listing { commit, files, only_generates })
    }

    /// Brings files of one snapshot into `staging`: linked where that is possible, so that no space is used twice.
    pub(crate) fn take(
        &self,
        commit: &str,
        files: &[WantedFile],
        staging: &mut Staging,
    ) -> Result<(), SourceError> {
        let snapshot = self.snapshot(commit);
        for wanted in files {
            let there = fs::symlink_metadata(snapshot.join(wanted.path.as_str())).is_ok();
            match (there, wanted.optional) {
                (false, true) => continue,
                (false, false) => {
                    let what = format!("{} has no {}", snapshot.display(), wanted.path);
                    return Err(SourceError::Incomplete { what });
                }
                (true, _) if staging.holds(wanted)? => continue,
                (true, _) => {}
            }
            let blob = self.blob(&snapshot, wanted.path.as_str())?;
            let part = staging.part(wanted);
            staging::link_or_copy(&blob, &part)?;
            match staging.accept(wanted, &part) {
                Err(SourceError::WrongHash { .. } | SourceError::TooLarge { .. }) if wanted.optional => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Commits that are in the cache: the asked revision's first, then, where `any` will do, that of `main` and all others.
    fn commits(&self, any: bool) -> Vec<String> {
        let snapshots = self.folder.join("snapshots");
        let revision = self.repo.revision();
        let by_ref = |name: &str| fs::read_to_string(self.folder.join("refs").join(name)).ok();
        let mut commits: Vec<String> = Vec::new();
        let mut push = |commit: &str| {
            let commit = commit.trim();
            let usable = names::check_revision(commit).is_ok() && snapshots.join(commit).is_dir();
            if usable && !commits.iter().any(|known| known == commit) {
                commits.push(commit.to_owned());
            }
        };
        push(revision);
        by_ref(revision).iter().for_each(|commit| push(commit));
        if any {
            by_ref("main").iter().for_each(|commit| push(commit));
            let mut others: Vec<String> = fs::read_dir(&snapshots)
                .map(|entries| {
                    entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
                })
                .unwrap_or_default();
            others.sort();
            others.iter().for_each(|commit| push(commit));
        }
        commits
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache.repo(self.repo.clone()).pointer_path(commit)
    }

    /// The file behind a snapshot's link; it must lie in this repository's folder.
    fn blob(&self, snapshot: &Path, file: &str) -> Result<PathBuf, SourceError> {
        let path = snapshot.join(file);
        let real = |path: &Path| {
            path.canonicalize().map_err(|source| SourceError::Read { path: path.to_owned(), source })
        };
        let blob = real(&path)?;
        if !blob.starts_with(real(&self.folder)?) || !blob.is_file() {
            let what = format!("{} leads out of the cache, to {}", path.display(), blob.display());
            return Err(SourceError::Incomplete { what });
        }
        Ok(blob)
    }

    /// A blob's name is what the Hub said of its content: SHA-256 of large files, git blob id of small ones.
    fn wanted(&self, snapshot: &Path, path: FilePath) -> Result<WantedFile, SourceError> {
        let blob = self.blob(snapshot, path.as_str())?;
        let size =
            fs::metadata(&blob).map_err(|source| SourceError::Read { path: blob.clone(), source })?.len();
        let digest = blob.file_name().and_then(|name| name.to_str()).and_then(Digest::from_hex);
        Ok(match digest {
            Some(digest) => WantedFile::pinned(path, Pin { size, digest }),
            None => WantedFile { path, accept: Vec::new(), max_size: size, optional: false },
        })
    }

    fn absent(&self) -> SourceError {
        SourceError::Absent { what: self.folder.display().to_string() }
    }
}

/// Names of the files in a snapshot and in the folders right below it, with `/` between.
fn file_names(snapshot: &Path) -> Result<Vec<String>, SourceError> {
    let list = |folder: &Path| -> Result<Vec<(String, bool)>, SourceError> {
        let read = |source| SourceError::Read { path: folder.to_owned(), source };
        let entries: Vec<_> = fs::read_dir(folder).and_then(Iterator::collect).map_err(read)?;
        let named = |entry: fs::DirEntry| {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            (entry.file_name().to_string_lossy().into_owned(), is_dir)
        };
        Ok(entries.into_iter().map(named).collect())
    };
    let mut names = Vec::new();
    for (name, is_dir) in list(snapshot)? {
        if is_dir {
            let below = list(&snapshot.join(&name))?;
            names.extend(below.into_iter().filter(|(_, dir)| !dir).map(|(file, _)| format!("{name}/{file}")));
        } else {
            names.push(name);
        }
    }
    Ok(names)
}
