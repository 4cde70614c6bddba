//! What every handler shares: the engine, the names of its models, and the rules of the house.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use polylora_engine::EmbeddingService;

use crate::assemble::Assembly;
use crate::http_metrics::HttpMetrics;
use crate::settings::{ApiKey, Settings};
use crate::wire::models::Models;
use crate::wire::openai::ReadingRules;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelRef<'a> {
    /// The base model.
    Base,
    /// An adapter of that name, if there is one: the engine knows.
    Adapter(&'a str),
}

impl<'a> ModelRef<'a> {
    /// The adapter's name; `None` for the base.
    pub fn adapter(self) -> Option<&'a str> {
        match self {
            Self::Base => None,
            Self::Adapter(name) => Some(name),
        }
    }
}

/// The names of the base model, the leading one first, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelNames {
    names: Vec<String>,
    /// How many of them, from the first, are not only the catalogue's.
    own: usize,
}

/// An adapter has a name that is the base model's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the adapter `{name}` has a name of the base model: rename its folder, or change --served-model-name"
)]
pub struct NameClash {
    /// The name.
    pub name: String,
}

impl ModelNames {
    /// The names: those that the user chose, then the model's own, then the catalogue's.
    pub fn new(chosen: &[String], own: &str, catalogue: &[String]) -> Self {
        let mut names: Vec<String> = Vec::new();
        let mut add = |name: &str| {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
            names.len()
        };
        chosen.iter().for_each(|name| {
            add(name);
        });
        let own = add(own);
        catalogue.iter().for_each(|name| {
            add(name);
        });
        Self { names, own }
    }

    /// Gives the catalogue's names that adapters have, served or refused, to the adapters, with a warning each.
    ///
    /// # Errors
    /// [`NameClash`] for an adapter with a name that the user or the model itself gave the base.
    pub fn yielding_to(mut self, adapters: &[String]) -> Result<Self, NameClash> {
        if let Some(clash) = adapters.iter().find(|name| self.is_own(name)) {
            return Err(NameClash { name: clash.clone() });
        }
        self.names.retain(|name| {
            let stays = !adapters.contains(name);
            if !stays {
                tracing::warn!(
                    name,
                    "an adapter has this name of the catalogue's: it stands for the adapter, not for the base model"
                );
            }
            stays
        });
        Ok(self)
    }

    /// Says whether the user or the model itself, not only the catalogue, gave this name.
    fn is_own(&self, name: &str) -> bool {
        self.names[..self.own].iter().any(|known| known == name)
    }

    /// The name that leads in lists and stands in replies where none was asked for.
    pub fn primary(&self) -> &str {
        &self.names[0]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// What a name stands for. What is no name of the base is an adapter's, never silently the base's.
    pub fn resolve<'a>(&self, name: &'a str) -> ModelRef<'a> {
        if self.iter().any(|known| known == name) { ModelRef::Base } else { ModelRef::Adapter(name) }
    }
}

/// What every handler shares.
pub struct AppState {
    service: Arc<dyn EmbeddingService>,
    names: ModelNames,
    auto_truncate: bool,
    api_key: Option<ApiKey>,
    payload_limit: usize,
    created: u64,
    http_metrics: HttpMetrics,
}

impl AppState {
    /// Puts an engine behind the settings. A name of an adapter, served or refused, never stands for the base model.
    ///
    /// # Errors
    /// [`NameClash`] when an adapter could not be told from the base model.
    pub fn new(assembly: Assembly, settings: &Settings) -> Result<Arc<Self>, NameClash> {
        let Assembly { service, aliases, refused_adapters } = assembly;
        let served = service.adapters().into_iter().map(|adapter| adapter.name);
        let adapters: Vec<String> = served.chain(refused_adapters).collect();
        let names = ModelNames::new(&settings.served_model_name, &service.model().name, &aliases)
            .yielding_to(&adapters)?;
        // A clock before 1970 is no reason not to serve.
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Arc::new(Self {
            service,
            names,
            auto_truncate: settings.auto_truncate,
            api_key: settings.api_key.clone(),
            payload_limit: settings.payload_limit.bytes(),
            created,
            http_metrics: HttpMetrics::new(),
        }))
    }

    /// The engine.
    pub fn service(&self) -> &dyn EmbeddingService {
        self.service.as_ref()
    }

    /// How requests are read.
    pub fn reading_rules(&self) -> ReadingRules<'_> {
        ReadingRules {
            names: &self.names,
            auto_truncate: self.auto_truncate,
            max_tokens: self.service.model().max_tokens,
        }
    }

    /// The models that are served now.
    pub fn models(&self) -> Models<'_> {
        Models {
            base: self.service.model(),
            names: &self.names,
            adapters: self.service.adapters(),
            created: self.created,
        }
    }

    /// The key that clients need.
    pub fn api_key(&self) -> Option<&ApiKey> {
        self.api_key.as_ref()
    }

    /// Bytes a body may have.
    pub fn payload_limit(&self) -> usize {
        self.payload_limit
    }

    /// The counters of the HTTP side.
    pub fn http_metrics(&self) -> &HttpMetrics {
        &self.http_metrics
    }
}
