//! What every handler shares: the engine, the names of its models, and the rules of the house.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use polylora_engine::EmbeddingService;

use crate::assemble::Assembly;
use crate::http_metrics::HttpMetrics;
pub use crate::model_names::{ModelNames, ModelRef, NameClash};
use crate::settings::{ApiKey, Settings};
use crate::wire::models::Models;
use crate::wire::openai::ReadingRules;
use crate::wire::status::ServerStatus;

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

    /// What is served and how it fares.
    pub fn status(&self) -> ServerStatus {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let uptime = now.saturating_sub(Duration::from_secs(self.created));
        ServerStatus::of(self.service.as_ref(), self.names.primary(), uptime)
    }

    /// The counters of the HTTP side.
    pub fn http_metrics(&self) -> &HttpMetrics {
        &self.http_metrics
    }
}
