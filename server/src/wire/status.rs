//! `GET /api/status`: what is served, what the engine does now and did lately, within a bound of bytes.

use std::time::Duration;

use polylora_engine::{
    AdapterInfo, DomainLabel, DomainSnapshot, Health, LatencySnapshot, ModelInfo, Snapshot,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::embedder::Embedder;
use crate::llm::Llm;

/// Adapters in one reply; `total` says how many there are.
pub const MOST_LISTED_ADAPTERS: usize = 256;

/// What is served and how it fares.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerStatus {
    /// Version of the server.
    pub version: &'static str,
    /// Whether requests would be served.
    pub state: ServerState,
    /// Seconds since the model was loaded.
    pub uptime_seconds: u64,
    /// The device, and how it is used.
    pub device: DeviceStatus,
    /// The base model that makes embeddings; `null` where none does.
    #[schema(required)]
    pub model: Option<ModelStatus>,
    /// Its adapters; from here on all is of what generates text where nothing makes embeddings.
    pub adapters: AdapterList,
    /// Requests at the device.
    pub requests: RequestCounts,
    /// Work a second, over the last ten whole seconds.
    pub throughput: Throughput,
    /// How long the last 1024 answered requests took; `null` before the first.
    #[schema(required)]
    pub latency: Option<Latency>,
    /// Traffic of the base model and of adapters that were asked for: the first 64 of those, then the others as one.
    pub domains: Vec<DomainTraffic>,
    /// What generates text; `null` where nothing does.
    #[schema(required)]
    pub generation: Option<LlmStatus>,
}

/// Whether requests would be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// They would.
    Ready,
    /// No probe has gone through the device yet.
    Starting,
    /// The server is stopping or without its device.
    Unavailable,
}

/// What computes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeviceStatus {
    /// Its name.
    pub name: String,
    /// How requests become batches.
    pub mode: String,
    /// Instances of the model.
    pub instances: usize,
}

/// The base model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelStatus {
    /// The name that replies lead with.
    pub name: String,
    /// Content digest of weights and config, SHA-256 in hexadecimal.
    pub digest: String,
    /// Width of an embedding.
    pub dimensions: usize,
    /// Tokens one input may have.
    pub max_tokens: usize,
    /// What is computed in.
    pub dtype: String,
    /// How tokens become one vector.
    pub pooling: String,
}

/// What generates text.
#[derive(Debug, Serialize, ToSchema)]
pub struct LlmStatus {
    /// The name that replies lead with.
    pub name: String,
    /// Whether requests would be served.
    pub state: ServerState,
    /// Content digest of weights and config, SHA-256 in hexadecimal.
    pub digest: String,
    /// Tokens that prompt and reply may have together.
    pub max_model_len: usize,
    /// What is computed in.
    pub dtype: String,
    /// The device.
    pub device: String,
    /// Whether it takes conversations.
    pub has_chat_template: bool,
    /// Its adapters.
    pub adapters: AdapterList,
    /// Requests on their way through it.
    pub requests: RequestCounts,
    /// Its work; inputs are requests that ended.
    pub throughput: Throughput,
    /// Over its last 1024 requests; `null` before the first.
    #[schema(required)]
    pub latency: Option<Latency>,
    /// Its traffic by domain.
    pub domains: Vec<DomainTraffic>,
}

/// Adapters by name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AdapterList {
    /// How many are served.
    pub total: usize,
    /// The first 256 of them.
    pub listed: Vec<AdapterStatus>,
}

/// An adapter.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AdapterStatus {
    /// Its name.
    pub name: String,
    /// Highest rank among its layers.
    pub max_rank: usize,
    /// Whether its weights have been read.
    pub loaded: bool,
}

/// Requests at the device.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RequestCounts {
    /// Requests of which an input is being computed or was.
    pub running: usize,
    /// Requests that wait for the device.
    pub waiting: usize,
    /// Requests that may be in flight; more are answered 429.
    pub limit: usize,
}

/// Work a second.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Throughput {
    /// Inputs computed a second.
    pub inputs_per_second: f64,
    /// Tokens computed a second.
    pub tokens_per_second: f64,
}

/// How long requests took.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Latency {
    /// Milliseconds that half of them did not exceed.
    pub p50_ms: f64,
    /// Milliseconds that 99 of a hundred did not exceed.
    pub p99_ms: f64,
}

/// The traffic of a domain.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DomainTraffic {
    /// Whose it is.
    pub kind: DomainKind,
    /// The adapter's name; `null` for the base model and for the others.
    #[schema(required)]
    pub adapter: Option<String>,
    /// Requests so far.
    pub requests: u64,
    /// Inputs that wait for the device.
    pub waiting_inputs: usize,
}

/// Whose traffic it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DomainKind {
    /// The base model's.
    Base,
    /// An adapter's.
    Adapter,
    /// That of all adapters that are not told apart.
    Others,
}

impl ServerStatus {
    /// What both engines tell of themselves, where so many requests may be in flight.
    pub fn of(embedder: Option<&Embedder>, llm: Option<&Llm>, max_requests: usize, uptime: Duration) -> Self {
        let of_embeddings = |embedder: &Embedder| {
            let service = embedder.service();
            let limit = service.limits().concurrent_requests;
            EngineStatus::of(service.health(), service.snapshot(), service.adapters(), limit)
        };
        let of_texts = |llm: &Llm| {
            let service = llm.service();
            EngineStatus::of(service.health(), service.snapshot(), service.adapters(), max_requests)
        };
        let (embedding, generating) = (embedder.map(of_embeddings), llm.map(of_texts));
        let lead = embedding.or_else(|| generating.clone());
        let EngineStatus { state, device, adapters, requests, throughput, latency, domains } = lead
            .unwrap_or_else(|| {
                EngineStatus::of(Health::Unavailable, Snapshot::default(), vec![], max_requests)
            });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            state,
            uptime_seconds: uptime.as_secs(),
            device,
            model: embedder.map(|e| ModelStatus::of(e.service().model(), e.names().primary())),
            adapters,
            requests,
            throughput,
            latency,
            domains,
            generation: llm.zip(generating).map(|(llm, status)| LlmStatus::of(llm, status)),
        }
    }
}

/// What every engine tells of itself.
#[derive(Clone)]
struct EngineStatus {
    state: ServerState,
    device: DeviceStatus,
    adapters: AdapterList,
    requests: RequestCounts,
    throughput: Throughput,
    latency: Option<Latency>,
    domains: Vec<DomainTraffic>,
}

impl EngineStatus {
    fn of(health: Health, snapshot: Snapshot, adapters: Vec<AdapterInfo>, limit: usize) -> Self {
        let Snapshot {
            device,
            mode,
            instances,
            domains,
            running_requests,
            waiting_requests,
            rows_per_second,
            tokens_per_second,
            latency,
        } = snapshot;
        Self {
            state: health.into(),
            device: DeviceStatus { name: device, mode, instances },
            adapters: adapters.into(),
            requests: RequestCounts { running: running_requests, waiting: waiting_requests, limit },
            throughput: Throughput { inputs_per_second: rows_per_second, tokens_per_second },
            latency: latency.map(Latency::from),
            domains: domains.into_iter().map(DomainTraffic::from).collect(),
        }
    }
}

impl ModelStatus {
    fn of(model: &ModelInfo, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            digest: model.digest.clone(),
            dimensions: model.dimensions,
            max_tokens: model.max_tokens,
            dtype: model.dtype.clone(),
            pooling: model.pooling.clone(),
        }
    }
}

impl LlmStatus {
    fn of(llm: &Llm, status: EngineStatus) -> Self {
        let info = llm.service().model();
        let EngineStatus { state, adapters, requests, throughput, latency, domains, .. } = status;
        Self {
            name: llm.names().primary().to_owned(),
            state,
            digest: info.digest.clone(),
            max_model_len: info.max_model_len,
            dtype: info.dtype.clone(),
            device: info.device.clone(),
            has_chat_template: info.has_chat_template,
            adapters,
            requests,
            throughput,
            latency,
            domains,
        }
    }
}

impl From<Vec<AdapterInfo>> for AdapterList {
    fn from(adapters: Vec<AdapterInfo>) -> Self {
        let listed = adapters.iter().take(MOST_LISTED_ADAPTERS).cloned().map(AdapterStatus::from).collect();
        Self { total: adapters.len(), listed }
    }
}

impl From<Health> for ServerState {
    fn from(health: Health) -> Self {
        match health {
            Health::Ready => Self::Ready,
            Health::Starting => Self::Starting,
            Health::Unavailable => Self::Unavailable,
        }
    }
}

impl From<AdapterInfo> for AdapterStatus {
    fn from(adapter: AdapterInfo) -> Self {
        Self { name: adapter.name, max_rank: adapter.max_rank, loaded: adapter.is_loaded }
    }
}

impl From<LatencySnapshot> for Latency {
    fn from(latency: LatencySnapshot) -> Self {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        Self { p50_ms: milliseconds(latency.p50), p99_ms: milliseconds(latency.p99) }
    }
}

impl From<DomainSnapshot> for DomainTraffic {
    fn from(domain: DomainSnapshot) -> Self {
        let (kind, adapter) = match domain.domain {
            DomainLabel::Base => (DomainKind::Base, None),
            DomainLabel::Adapter(name) => (DomainKind::Adapter, Some(name)),
            DomainLabel::Others => (DomainKind::Others, None),
        };
        Self { kind, adapter, requests: domain.requests, waiting_inputs: domain.waiting_rows }
    }
}
