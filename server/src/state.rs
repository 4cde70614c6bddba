//! What every handler shares: the engine, the names of its models, and the rules of the house.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, StatusCode};
use polylora_adapters::{AdapterName, Fleet};
use polylora_engine::{EmbeddingService, SplitKey};

use crate::admin::AdminRules;
use crate::api_keys::ApiKeys;
use crate::assemble::Assembly;
use crate::connections::ConnectionMetrics;
use crate::http_metrics::HttpMetrics;
use crate::intake::Gate;
pub use crate::model_names::{ModelNames, ModelRef, NameClash};
use crate::request_log::RequestId;
use crate::settings::{HeaderField, Settings};
use crate::wire::error::ApiError;
use crate::wire::models::Models;
use crate::wire::openai::ReadingRules;
use crate::wire::status::ServerStatus;

/// Changes of the fleet that are under way at once.
const MOST_ADMINS: usize = 16;
/// What the paths of such changes begin with.
const FLEET_PATHS: &str = "/api/adapters/";

/// What is there before the model is: it opens the port and guards it.
#[derive(Debug, Default)]
pub struct Gatehouse {
    /// The keys of clients.
    pub api_keys: Arc<ApiKeys>,
    /// The counters of connections.
    pub connections: ConnectionMetrics,
    /// Who may change the fleet.
    pub admin: AdminRules,
}

/// What every handler shares.
pub struct AppState {
    service: Arc<dyn EmbeddingService>,
    names: ModelNames,
    auto_truncate: bool,
    api_keys: Arc<ApiKeys>,
    metrics_are_public: bool,
    gate: Gate,
    admin_gate: Gate,
    fleet: Option<Arc<Fleet>>,
    admin: AdminRules,
    split_header: HeaderField,
    max_loras: Option<usize>,
    payload_limit: usize,
    body_read_timeout: Duration,
    created: u64,
    http_metrics: HttpMetrics,
}

impl AppState {
    /// Puts an engine behind the settings. A name of an adapter, served or refused, never stands for the base model.
    ///
    /// # Errors
    /// [`NameClash`] when an adapter could not be told from the base model.
    pub fn new(assembly: Assembly, settings: &Settings) -> Result<Arc<Self>, NameClash> {
        let api_keys = Arc::new(ApiKeys::given(&settings.api_key));
        let admin = AdminRules::unrecorded(settings);
        Self::behind(Gatehouse { api_keys, admin, ..Gatehouse::default() }, assembly, settings)
    }

    /// As [`AppState::new`], with the keys and counters that the server started with.
    ///
    /// # Errors
    /// [`NameClash`].
    pub fn behind(
        gatehouse: Gatehouse,
        assembly: Assembly,
        settings: &Settings,
    ) -> Result<Arc<Self>, NameClash> {
        let Assembly { service, aliases, refused_adapters, fleet } = assembly;
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
            api_keys: gatehouse.api_keys,
            metrics_are_public: settings.public_metrics,
            gate: Gate::new(settings.max_concurrent_requests.get()),
            admin_gate: Gate::new(MOST_ADMINS),
            fleet,
            admin: gatehouse.admin,
            split_header: settings.ab_header.clone(),
            max_loras: settings.max_loras.map(NonZeroUsize::get),
            payload_limit: settings.payload_limit.bytes(),
            body_read_timeout: settings.body_read_timeout.0,
            created,
            http_metrics: HttpMetrics::new(gatehouse.connections),
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

    /// The keys that clients need.
    pub fn api_keys(&self) -> &ApiKeys {
        &self.api_keys
    }

    /// Whether `/metrics` needs no key.
    pub fn metrics_are_public(&self) -> bool {
        self.metrics_are_public
    }

    /// The places for requests to `path` that are being answered: a full house does not shut its operators out.
    pub fn gate(&self, path: &str) -> &Gate {
        if path.starts_with(FLEET_PATHS) { &self.admin_gate } else { &self.gate }
    }

    /// The adapters, where they are the server's to manage.
    pub fn fleet(&self) -> Option<&Arc<Fleet>> {
        self.fleet.as_ref()
    }

    /// Who may change them.
    pub fn admin(&self) -> &AdminRules {
        &self.admin
    }

    /// Adapters that the device takes at once, where that is bounded.
    pub fn max_loras(&self) -> Option<usize> {
        self.max_loras
    }

    /// Refuses a name that stands for the base model.
    ///
    /// # Errors
    /// 400.
    pub fn may_be_an_adapters(&self, name: &AdapterName) -> Result<(), ApiError> {
        match self.names.resolve(name.as_str()) {
            ModelRef::Adapter(found) if found == name.as_str() => Ok(()),
            _ => {
                let message = format!("the name {name:?} means the base model: choose another");
                Err(ApiError::invalid(StatusCode::BAD_REQUEST, "name_of_base", message).naming("adapter_id"))
            }
        }
    }

    /// What stands for a client in A/B tests: his `user`, else the header for it, else the request.
    pub fn split_key(
        &self,
        user: Option<&str>,
        headers: &HeaderMap,
        request: Option<&RequestId>,
    ) -> Option<SplitKey> {
        let header = || headers.get(&self.split_header.0).and_then(|value| value.to_str().ok());
        let client = user.or_else(header).or(request.map(|RequestId(id)| id.as_str()));
        client.map(SplitKey::of)
    }

    /// How long a body may take to come.
    pub fn body_read_timeout(&self) -> Duration {
        self.body_read_timeout
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
