//! What every handler shares: the engine, the names of its models, and the rules of the house.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, StatusCode};
use polylora_adapters::{AdapterName, Fleet};
use polylora_engine::{EmbedError, SplitKey};

use crate::admin::AdminRules;
use crate::api_keys::ApiKeys;
use crate::assemble::Assembly;
use crate::connections::ConnectionMetrics;
use crate::embedder::Embedder;
use crate::http_metrics::HttpMetrics;
use crate::intake::Gate;
use crate::llm::Llm;
use crate::model_names::chosen_for_llm;
pub use crate::model_names::{ModelNames, ModelRef, NameClash};
use crate::request_log::RequestId;
use crate::settings::{HeaderField, Settings};
use crate::wire::error::ApiError;
use crate::wire::llm_choice::{embeds_nothing, no_embedding_model};
use crate::wire::models::Models;
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
    embedder: Option<Embedder>,
    llm: Option<Llm>,
    api_keys: Arc<ApiKeys>,
    metrics_are_public: bool,
    gate: Gate,
    admin_gate: Gate,
    fleet: Option<Arc<Fleet>>,
    admin: AdminRules,
    split_header: HeaderField,
    max_loras: Option<usize>,
    max_requests: usize,
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
        let Assembly {
            embedding,
            embedding_aliases,
            refused_adapters: refused,
            fleet,
            generation,
            generation_aliases,
        } = assembly;
        let (chosen, auto_truncate) = (&settings.served_model_name, settings.auto_truncate);
        let of_llm = chosen_for_llm(chosen, embedding.is_some());
        let llm = generation.map(|llm| Llm::new(llm, of_llm, &generation_aliases, &refused)).transpose()?;
        let embedder = embedding
            .map(|service| {
                let names = Embedder::names_of(service.as_ref(), chosen, &embedding_aliases, &refused)?;
                Ok(Embedder::new(service, names, auto_truncate))
            })
            .transpose()?;
        // A clock before 1970 is no reason not to serve.
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Arc::new(Self {
            embedder,
            llm,
            api_keys: gatehouse.api_keys,
            metrics_are_public: settings.public_metrics,
            gate: Gate::new(settings.max_concurrent_requests.get()),
            admin_gate: Gate::new(MOST_ADMINS),
            fleet,
            admin: gatehouse.admin,
            split_header: settings.ab_header.clone(),
            max_loras: settings.max_loras.map(NonZeroUsize::get),
            max_requests: settings.max_concurrent_requests.get(),
            payload_limit: settings.payload_limit.bytes(),
            body_read_timeout: settings.body_read_timeout.0,
            created,
            http_metrics: HttpMetrics::new(gatehouse.connections),
        }))
    }

    /// What makes embeddings, where something does.
    pub fn embedder(&self) -> Option<&Embedder> {
        self.embedder.as_ref()
    }

    /// What makes embeddings.
    ///
    /// # Errors
    /// 400 where nothing does, with what can be asked.
    pub fn embedding(&self) -> Result<&Embedder, ApiError> {
        self.embedder().ok_or_else(|| no_embedding_model(self.primary_name()))
    }

    /// What generates text, where something does.
    pub fn llm(&self) -> Option<&Llm> {
        self.llm.as_ref()
    }

    /// The names of all base models.
    pub fn base_names(&self) -> impl Iterator<Item = &str> {
        let embedding = self.embedder.iter().flat_map(|embedder| embedder.names().iter());
        embedding.chain(self.llm.iter().flat_map(|llm| llm.names().iter()))
    }

    /// The name that leads in lists.
    pub fn primary_name(&self) -> &str {
        self.base_names().next().unwrap_or_default()
    }

    /// What an embedding request is told in the place of `error` when it named what generates.
    pub fn asked_to_embed(&self, error: &EmbedError) -> Option<ApiError> {
        let (EmbedError::UnknownAdapter { name }, Some(llm)) = (error, &self.llm) else { return None };
        llm.serves(name).then(|| embeds_nothing(name, self.primary_name()))
    }

    /// The models that are served now.
    pub fn models(&self) -> Models<'_> {
        Models { embedder: self.embedder.as_ref(), llm: self.llm.as_ref(), created: self.created }
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

    /// Requests that may be in flight.
    pub fn max_requests(&self) -> usize {
        self.max_requests
    }

    /// Adapters that the device takes at once, where that is bounded.
    pub fn max_loras(&self) -> Option<usize> {
        self.max_loras
    }

    /// Refuses a name that stands for a base model.
    ///
    /// # Errors
    /// 400.
    pub fn may_be_an_adapters(&self, name: &AdapterName) -> Result<(), ApiError> {
        let names = self.embedder.iter().map(Embedder::names).chain(self.llm.iter().map(Llm::names));
        let is_free = |names: &ModelNames| names.resolve(name.as_str()) == ModelRef::Adapter(name.as_str());
        match names.into_iter().all(is_free) {
            true => Ok(()),
            false => {
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
        ServerStatus::of(self.embedder.as_ref(), self.llm.as_ref(), self.max_requests, uptime)
    }

    /// The counters of the HTTP side.
    pub fn http_metrics(&self) -> &HttpMetrics {
        &self.http_metrics
    }
}
