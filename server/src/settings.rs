//! What the server is told before it starts: defaults, under a TOML file, under `POLYLORA__…` variables, under flags.

mod choices;
mod fleet;
mod layers;
mod lists;
mod model_choice;
mod security;
mod serving;
mod timeout;
mod traces;
mod value;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use polylora_engine::Batching;
use serde::Deserialize;

pub use choices::{ByteSize, DeviceChoice, DtypeChoice, LogFilter, LogFormat};
pub use fleet::{AdapterErrorChoice, AdapterWarmup, Factor, HeaderField, StateDir};
pub use layers::{CONFIG_VARIABLE, ENVIRONMENT_PREFIX, Environment, SettingsError, load};
pub use model_choice::{EmbeddingModelChoice, NoEmbeddingModel};
pub use security::{ApiKey, Origin, Origins};
pub use serving::{BatchingChoice, CacheBytes, Milliseconds, ModeChoice, Share};
pub use timeout::Timeout;
pub use traces::TracesEndpoint;
pub use value::{Setting, ValueError, parse_setting};

use lists::several;
use value::{list, optional, scalar};

/// Every setting, resolved. The names are the keys of the TOML file and, in upper case after `POLYLORA__`, of the
/// environment; flags have dashes instead of underscores.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table of settings")]
pub struct Settings {
    /// Address or host name to listen on.
    #[serde(deserialize_with = "scalar")]
    pub host: String,
    /// Port to listen on; 0 lets the system choose.
    #[serde(deserialize_with = "scalar")]
    pub port: u16,
    /// Catalogue name or folder of the embedding model, or that there is none.
    #[serde(deserialize_with = "scalar")]
    pub embedding_model: EmbeddingModelChoice,
    /// Folder whose sub-folders are the adapters.
    #[serde(deserialize_with = "optional")]
    pub adapters_dir: Option<PathBuf>,
    /// Refuse to start when an adapter of the folder is refused.
    #[serde(deserialize_with = "scalar")]
    pub strict_adapters: bool,
    /// Names of the base model for clients; the first is the one that replies and lists lead with.
    #[serde(deserialize_with = "list")]
    pub served_model_name: Vec<String>,
    /// Where to compute.
    #[serde(deserialize_with = "scalar")]
    pub device: DeviceChoice,
    /// Number format of weights and activations.
    #[serde(deserialize_with = "scalar")]
    pub dtype: DtypeChoice,
    /// CPU threads for the computation; `None` is one a core.
    #[serde(deserialize_with = "optional")]
    pub threads: Option<NonZeroUsize>,
    /// Inputs one request may have.
    #[serde(deserialize_with = "scalar")]
    pub max_client_batch_size: NonZeroUsize,
    /// Requests in flight; more are answered 429.
    #[serde(deserialize_with = "scalar")]
    pub max_concurrent_requests: NonZeroUsize,
    /// Tokens in one forward pass; `None` is what suits the device.
    #[serde(deserialize_with = "optional")]
    pub max_batch_tokens: Option<NonZeroUsize>,
    /// How requests become batches.
    #[serde(deserialize_with = "scalar")]
    pub mode: ModeChoice,
    /// Instances of the pooled mode, each with its weights.
    #[serde(deserialize_with = "scalar")]
    pub pool_size: NonZeroUsize,
    /// Whose texts share a batch in the batched mode.
    #[serde(deserialize_with = "scalar")]
    pub batching: BatchingChoice,
    /// How often the next batch is made ready while one runs.
    #[serde(deserialize_with = "scalar")]
    pub tick_ms: Milliseconds,
    /// Bytes of embeddings that are kept for texts that come again.
    #[serde(deserialize_with = "scalar")]
    pub embedding_cache_bytes: CacheBytes,
    /// Where compiled kernels are kept between starts; `None` is `kernels` in polylora's own cache.
    #[serde(deserialize_with = "optional")]
    pub kernel_cache_dir: Option<PathBuf>,
    /// Leave it to the first requests to have kernels compiled and tuned.
    #[serde(deserialize_with = "scalar")]
    pub skip_warmup: bool,
    /// Cut inputs at the model's limit instead of refusing them.
    #[serde(deserialize_with = "scalar")]
    pub auto_truncate: bool,
    /// Keys of which clients must send one as a bearer token.
    #[serde(deserialize_with = "several")]
    pub api_key: Vec<ApiKey>,
    /// File with further keys, one a line.
    #[serde(deserialize_with = "optional")]
    pub api_key_file: Option<PathBuf>,
    /// Let `/metrics` be read without a key.
    #[serde(deserialize_with = "scalar")]
    pub public_metrics: bool,
    /// PEM file with the certificate chain; with `tls_key`, connections are TLS.
    #[serde(deserialize_with = "optional")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key.
    #[serde(deserialize_with = "optional")]
    pub tls_key: Option<PathBuf>,
    /// Origins whose pages may call the server (CORS); empty means none.
    #[serde(deserialize_with = "several")]
    pub allowed_origins: Vec<Origin>,
    /// Characters one text may have.
    #[serde(deserialize_with = "scalar")]
    pub max_input_chars: NonZeroUsize,
    /// Connections that may be open; more are answered 429.
    #[serde(deserialize_with = "scalar")]
    pub max_connections: NonZeroUsize,
    /// Connections that may wait in the system to be accepted.
    #[serde(deserialize_with = "scalar")]
    pub connection_backlog: NonZeroUsize,
    /// Time for a request's head, and for a TLS handshake.
    #[serde(deserialize_with = "scalar")]
    pub header_read_timeout: Timeout,
    /// Time for a request's body.
    #[serde(deserialize_with = "scalar")]
    pub body_read_timeout: Timeout,
    /// Time that a connection may wait for its next request, or for its client to read.
    #[serde(deserialize_with = "scalar")]
    pub idle_timeout: Timeout,
    /// Bytes for adapters in the device's arena.
    #[serde(deserialize_with = "scalar")]
    pub lora_memory: ByteSize,
    /// Bytes for adapters in the host's cache.
    #[serde(deserialize_with = "scalar")]
    pub host_cache_bytes: ByteSize,
    /// Where the registry of adapters is kept.
    #[serde(deserialize_with = "scalar")]
    pub state_dir: StateDir,
    /// Take in adapters that appear or change while the server runs.
    #[serde(deserialize_with = "scalar")]
    pub watch: bool,
    /// Folder that is looked into for adapters that are not known.
    #[serde(deserialize_with = "optional")]
    pub lora_resolver: Option<PathBuf>,
    /// Adapters on the device at once; `None` is as many as their memory holds.
    #[serde(deserialize_with = "optional")]
    pub max_loras: Option<NonZeroUsize>,
    /// Adapters in the host's cache; `None` is as many as it holds.
    #[serde(deserialize_with = "optional")]
    pub max_cpu_loras: Option<NonZeroUsize>,
    /// Highest rank of an adapter; `None` is the highest that is read at all.
    #[serde(deserialize_with = "optional")]
    pub max_lora_rank: Option<NonZeroUsize>,
    /// Adapters that are loaded before the server is ready.
    #[serde(deserialize_with = "scalar")]
    pub warmup: AdapterWarmup,
    /// What a request gets whose adapter cannot be loaded.
    #[serde(deserialize_with = "scalar")]
    pub on_adapter_error: AdapterErrorChoice,
    /// Keys of those who may change the registry; without any nobody may.
    #[serde(deserialize_with = "several")]
    pub admin_api_key: Vec<ApiKey>,
    /// Let clients on this machine load and unload adapters without such a key.
    #[serde(deserialize_with = "scalar")]
    pub allow_runtime_lora_updating: bool,
    /// Header that says who a client is, for A/B tests.
    #[serde(deserialize_with = "scalar")]
    pub ab_header: HeaderField,
    /// Seconds between two checks whether every adapter could answer; 0 is never.
    #[serde(deserialize_with = "scalar")]
    pub adapter_check_interval: u64,
    /// How many times worse a candidate may do before its A/B test ends; `None` is any.
    #[serde(deserialize_with = "optional")]
    pub auto_rollback_factor: Option<Factor>,
    /// How far back it is compared.
    #[serde(deserialize_with = "scalar")]
    pub auto_rollback_window: Timeout,
    /// Catalogue name or folder of the model that generates text; `None` is none.
    #[serde(deserialize_with = "optional")]
    pub llm: Option<String>,
    /// Tokens of a sequence, prompt and output together; `None` is what the model's files say.
    #[serde(deserialize_with = "optional")]
    pub max_model_len: Option<NonZeroUsize>,
    /// Bytes for keys and values; `None` is a share of free memory, or what suits a device that does not tell it.
    #[serde(deserialize_with = "optional")]
    pub kv_cache_memory_bytes: Option<ByteSize>,
    /// Share of the memory that is free after the weights, where no bytes are given; `None` is what suits the device.
    #[serde(deserialize_with = "optional")]
    pub gpu_memory_utilization: Option<Share>,
    /// Tokens in a block of the KV cache.
    #[serde(deserialize_with = "scalar")]
    pub block_size: NonZeroUsize,
    /// Sequences that hold blocks at one time.
    #[serde(deserialize_with = "scalar")]
    pub max_num_seqs: NonZeroUsize,
    /// Tokens in one step; `None` is what suits the device.
    #[serde(deserialize_with = "optional")]
    pub max_num_batched_tokens: Option<NonZeroUsize>,
    /// Compute every prompt anew.
    #[serde(deserialize_with = "scalar")]
    pub no_enable_prefix_caching: bool,
    /// Bytes one request's body may have.
    #[serde(deserialize_with = "scalar")]
    pub payload_limit: ByteSize,
    /// Seconds that requests in flight get to finish after a stop signal.
    #[serde(deserialize_with = "scalar")]
    pub shutdown_timeout: u64,
    /// Collector that gets the spans of requests.
    #[serde(deserialize_with = "optional")]
    pub otlp_traces_endpoint: Option<TracesEndpoint>,
    /// Form of the log lines.
    #[serde(deserialize_with = "scalar")]
    pub log_format: LogFormat,
    /// What is logged; `None` is `info`, and `warn` for `embed`.
    #[serde(deserialize_with = "optional")]
    pub log_level: Option<LogFilter>,
}

impl Default for Settings {
    fn default() -> Self {
        const fn count(n: usize) -> NonZeroUsize {
            NonZeroUsize::new(n).expect("a default above zero")
        }
        Self {
            host: "127.0.0.1".into(),
            port: 8080,
            embedding_model: EmbeddingModelChoice(Some("all-MiniLM-L6-v2".into())),
            adapters_dir: None,
            strict_adapters: false,
            served_model_name: Vec::new(),
            device: DeviceChoice::Auto,
            dtype: DtypeChoice::Auto,
            threads: None,
            max_client_batch_size: count(2048),
            max_concurrent_requests: count(512),
            max_batch_tokens: None,
            mode: ModeChoice::Batched,
            pool_size: count(4),
            batching: BatchingChoice(Batching::Mixed),
            tick_ms: Milliseconds(10),
            embedding_cache_bytes: CacheBytes(0),
            kernel_cache_dir: None,
            skip_warmup: false,
            auto_truncate: true,
            api_key: Vec::new(),
            api_key_file: None,
            public_metrics: false,
            tls_cert: None,
            tls_key: None,
            allowed_origins: Vec::new(),
            max_input_chars: count(200_000),
            max_connections: count(4096),
            connection_backlog: count(1024),
            header_read_timeout: Timeout::seconds(10),
            body_read_timeout: Timeout::seconds(30),
            idle_timeout: Timeout::seconds(75),
            lora_memory: ByteSize(512 << 20),
            host_cache_bytes: ByteSize(1 << 30),
            state_dir: StateDir(None),
            watch: false,
            lora_resolver: None,
            max_loras: None,
            max_cpu_loras: None,
            max_lora_rank: None,
            warmup: AdapterWarmup::None,
            on_adapter_error: AdapterErrorChoice::default(),
            admin_api_key: Vec::new(),
            allow_runtime_lora_updating: false,
            ab_header: HeaderField::default(),
            adapter_check_interval: 60,
            auto_rollback_factor: None,
            auto_rollback_window: Timeout::seconds(300),
            llm: None,
            max_model_len: None,
            kv_cache_memory_bytes: None,
            gpu_memory_utilization: None,
            block_size: count(16),
            max_num_seqs: count(256),
            max_num_batched_tokens: None,
            no_enable_prefix_caching: false,
            payload_limit: ByteSize(2_000_000),
            shutdown_timeout: 30,
            otlp_traces_endpoint: None,
            log_format: LogFormat::Text,
            log_level: None,
        }
    }
}
