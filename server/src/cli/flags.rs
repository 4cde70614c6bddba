//! The flags, and how they are laid over the settings.

mod adapters;
mod fleet;
mod generation;
mod limits;
mod security;
mod traces;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use crate::bench_command::{BenchDtype, Seconds};
use crate::settings::{
    BatchingChoice, ByteSize, CacheBytes, DeviceChoice, DtypeChoice, EmbeddingModelChoice, LogFilter,
    LogFormat, Milliseconds, ModeChoice, Settings, parse_setting,
};

pub use adapters::{ActivateChoice, AdaptersAction, AdaptersFlags, ExpectFlag, RegisterFlags, TargetFlags};
pub use fleet::FleetFlags;
pub use generation::GenerationFlags;
pub use limits::LimitFlags;
pub use security::SecurityFlags;
pub use traces::TraceFlags;

/// Flags that say which model runs and how.
#[derive(Debug, Default, Args)]
pub struct EngineFlags {
    /// TOML file with settings; its keys are the flags' names with underscores.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Embedding model: a name of the catalogue, a Hub repository as owner/name, a folder in the Hugging Face layout, or none
    /// for a server that only generates text [default: all-MiniLM-L6-v2].
    #[arg(long, value_name = "NAME|DIR|none", value_parser = parse_setting::<EmbeddingModelChoice>)]
    pub embedding_model: Option<EmbeddingModelChoice>,
    /// Folder of adapters: each sub-folder with an adapter_config.json is served under the sub-folder's name.
    #[arg(long, value_name = "DIR", value_parser = parse_setting::<PathBuf>)]
    pub adapters_dir: Option<PathBuf>,
    /// Where to compute: auto, cpu, wgpu, wgpu:N, cuda or cuda:N [default: auto].
    #[arg(long, value_name = "DEVICE", value_parser = parse_setting::<DeviceChoice>)]
    pub device: Option<DeviceChoice>,
    /// Number format: auto, f32, f16, bf16, or int8 for weights on the CPU [default: auto].
    #[arg(long, value_name = "DTYPE", value_parser = parse_setting::<DtypeChoice>)]
    pub dtype: Option<DtypeChoice>,
    /// CPU threads for the computation [default: one a core].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub threads: Option<NonZeroUsize>,
    /// Most tokens in one forward pass [default: 768 on the CPU, 16384 elsewhere].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub max_batch_tokens: Option<NonZeroUsize>,
    /// Folder where compiled GPU kernels are kept between starts [default: kernels in polylora's own cache].
    #[arg(long, value_name = "DIR", value_parser = parse_setting::<PathBuf>)]
    pub kernel_cache_dir: Option<PathBuf>,
    /// Cut inputs at the model's limit (true, the default) or refuse them (false).
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = parse_setting::<bool>
    )]
    pub auto_truncate: Option<bool>,
    /// Refuse inputs over the model's limit; the same as --auto-truncate false.
    #[arg(long, conflicts_with = "auto_truncate")]
    pub no_auto_truncate: bool,
    /// Form of the log lines on standard error: text or json [default: text].
    #[arg(long, value_name = "FORMAT", value_parser = parse_setting::<LogFormat>)]
    pub log_format: Option<LogFormat>,
    /// What is logged: off, error, warn, info, debug, trace, or directives such as info,polylora_engine=debug
    /// [default: info, for embed warn].
    #[arg(long, value_name = "LEVEL", value_parser = parse_setting::<LogFilter>)]
    pub log_level: Option<LogFilter>,
}

/// Flags of `polylora serve`.
#[derive(Debug, Default, Args)]
pub struct ServeFlags {
    /// The model and how it runs.
    #[command(flatten)]
    pub engine: EngineFlags,
    /// Address or host name to listen on [default: 127.0.0.1].
    #[arg(long, value_name = "HOST", value_parser = parse_setting::<String>)]
    pub host: Option<String>,
    /// Port to listen on; 0 lets the system choose [default: 8080].
    #[arg(long, value_name = "PORT", value_parser = parse_setting::<u16>)]
    pub port: Option<u16>,
    /// Names under which clients reach the base model; the first leads in lists and replies. The model's own name keeps
    /// working.
    #[arg(
        long, value_name = "NAME", num_args = 1.., action = ArgAction::Append, value_parser = parse_setting::<String>
    )]
    pub served_model_name: Vec<String>,
    /// Refuse to start when an adapter of the folder is refused, instead of serving the others.
    #[arg(long)]
    pub strict_adapters: bool,
    /// Be ready sooner: on a GPU kernels are then compiled and tuned in the first requests instead of at the start.
    #[arg(long)]
    pub skip_warmup: bool,
    /// Most inputs in one request [default: 2048].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub max_client_batch_size: Option<NonZeroUsize>,
    /// Most requests in flight; more are answered 429 [default: 512].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub max_concurrent_requests: Option<NonZeroUsize>,
    /// The fleet of adapters.
    #[command(flatten)]
    pub fleet: FleetFlags,
    /// Keys, TLS and origins.
    #[command(flatten)]
    pub security: SecurityFlags,
    /// The model that generates text.
    #[command(flatten)]
    pub generation: GenerationFlags,
    /// What a client may take up.
    #[command(flatten)]
    pub limits: LimitFlags,
    /// Tracing of requests.
    #[command(flatten)]
    pub traces: TraceFlags,
    /// How requests become batches: serial (one text at a time), pooled (the same on --pool-size instances, each with
    /// its own weights) or batched [default: batched].
    #[arg(long, value_name = "MODE", value_parser = parse_setting::<ModeChoice>)]
    pub mode: Option<ModeChoice>,
    /// Instances in mode pooled [default: 4].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub pool_size: Option<NonZeroUsize>,
    /// Whose texts share a batch in mode batched: mixed (everybody's) or per-domain (those of one adapter) [default:
    /// mixed].
    #[arg(long, value_name = "BATCHING", value_parser = parse_setting::<BatchingChoice>)]
    pub batching: Option<BatchingChoice>,
    /// How often the next batch is made ready while one runs, in milliseconds; an idle device never waits for it. 0 picks
    /// each batch when the device comes for it [default: 10].
    #[arg(long, value_name = "MS", value_parser = parse_setting::<Milliseconds>)]
    pub tick_ms: Option<Milliseconds>,
    /// Memory for embeddings of texts that come again, e.g. 256MiB; 0 keeps none [default: 0].
    #[arg(long, value_name = "BYTES", value_parser = parse_setting::<CacheBytes>)]
    pub embedding_cache_bytes: Option<CacheBytes>,
    /// Memory for adapters on the device, e.g. 512MiB [default: 512MiB].
    #[arg(long, value_name = "BYTES", value_parser = parse_setting::<ByteSize>)]
    pub lora_memory: Option<ByteSize>,
    /// Memory for adapters in the host's cache, e.g. 2GiB [default: 1GiB].
    #[arg(long, value_name = "BYTES", value_parser = parse_setting::<ByteSize>)]
    pub host_cache_bytes: Option<ByteSize>,
    /// Most bytes in one request's body [default: 2MB].
    #[arg(long, value_name = "BYTES", value_parser = parse_setting::<ByteSize>)]
    pub payload_limit: Option<ByteSize>,
    /// Seconds that requests in flight get to finish after SIGTERM or SIGINT; a second signal ends them [default: 30].
    #[arg(long, value_name = "SECS", value_parser = parse_setting::<u64>)]
    pub shutdown_timeout: Option<u64>,
}

/// Flags of `polylora embed`.
#[derive(Debug, Default, Args)]
pub struct EmbedFlags {
    /// The model and how it runs.
    #[command(flatten)]
    pub engine: EngineFlags,
    /// Adapter: a name in --adapters-dir, or a folder with an adapter_config.json.
    #[arg(long, value_name = "NAME|DIR", value_parser = parse_setting::<String>)]
    pub adapter: Option<String>,
    /// How embeddings are printed.
    #[arg(long, value_enum, default_value_t = OutputFormat::Json)]
    pub format: OutputFormat,
    /// Texts to embed; without any, each line of standard input is one.
    #[arg(value_name = "TEXT")]
    pub texts: Vec<String>,
}

/// How embeddings are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// A JSON array a line.
    #[default]
    Json,
    /// Numbers with spaces between them, one embedding a line.
    Text,
}

/// Flags of `polylora pull`.
#[derive(Debug, Args)]
pub struct PullFlags {
    /// Name in the catalogue, e.g. all-MiniLM-L6-v2.
    #[arg(value_name = "NAME", value_parser = parse_setting::<String>)]
    pub name: String,
}

/// Flags of `polylora bench`.
#[derive(Debug, Args)]
pub struct BenchFlags {
    /// Embedding model: a name of the catalogue or a folder in the Hugging Face layout [default: all-MiniLM-L6-v2].
    #[arg(long, alias = "embedding-model", value_name = "NAME|DIR", value_parser = parse_setting::<String>)]
    pub model: Option<String>,
    /// CPU threads for the computation [default: one a core].
    #[arg(long, value_name = "N", value_parser = parse_setting::<NonZeroUsize>)]
    pub threads: Option<NonZeroUsize>,
    /// Number formats: f32, bf16, int8.
    #[arg(
        long, value_name = "DTYPE,…", value_delimiter = ',', default_value = "f32,bf16,int8",
        value_parser = parse_setting::<BenchDtype>
    )]
    pub dtype: Vec<BenchDtype>,
    /// Texts in a batch.
    #[arg(
        long, value_name = "N,…", value_delimiter = ',', default_value = "1,10,32,100",
        value_parser = parse_setting::<NonZeroUsize>
    )]
    pub batch: Vec<NonZeroUsize>,
    /// Tokens of a text, special ones included.
    #[arg(
        long, value_name = "N,…", value_delimiter = ',', default_value = "16,128",
        value_parser = parse_setting::<NonZeroUsize>
    )]
    pub tokens: Vec<NonZeroUsize>,
    /// Measure a language model of this shape instead, with random weights: a config.json of any family that `--llm` takes.
    #[arg(
        long, value_name = "FILE", conflicts_with_all = ["model", "batch", "tokens"],
        value_parser = parse_setting::<PathBuf>
    )]
    pub random_weights: Option<PathBuf>,
    /// With --random-weights: adapters that the texts of a batch go round; 0 measures none.
    #[arg(long, value_name = "N", default_value_t = 8, requires = "random_weights")]
    pub adapters: usize,
    /// With --random-weights: their rank, on every linear layer.
    #[arg(
        long, value_name = "R", default_value = "8", requires = "random_weights",
        value_parser = parse_setting::<NonZeroUsize>
    )]
    pub rank: NonZeroUsize,
    /// Seconds for each figure, of which there are about thirty.
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = parse_setting::<Seconds>)]
    pub seconds: Seconds,
    /// Print one JSON object instead of Markdown.
    #[arg(long)]
    pub json: bool,
}

impl EngineFlags {
    /// Lays the flags that were given over the settings.
    pub fn lay_over(self, settings: &mut Settings) {
        put(&mut settings.embedding_model, self.embedding_model);
        put_some(&mut settings.adapters_dir, self.adapters_dir);
        put(&mut settings.device, self.device);
        put(&mut settings.dtype, self.dtype);
        put_some(&mut settings.threads, self.threads);
        put_some(&mut settings.max_batch_tokens, self.max_batch_tokens);
        put_some(&mut settings.kernel_cache_dir, self.kernel_cache_dir);
        put(&mut settings.auto_truncate, self.auto_truncate);
        put(&mut settings.auto_truncate, self.no_auto_truncate.then_some(false));
        put(&mut settings.log_format, self.log_format);
        put_some(&mut settings.log_level, self.log_level);
    }
}

impl ServeFlags {
    /// Lays the flags that were given over the settings.
    pub fn lay_over(self, settings: &mut Settings) {
        self.engine.lay_over(settings);
        put(&mut settings.host, self.host);
        put(&mut settings.port, self.port);
        put(
            &mut settings.served_model_name,
            (!self.served_model_name.is_empty()).then_some(self.served_model_name),
        );
        put(&mut settings.strict_adapters, self.strict_adapters.then_some(true));
        put(&mut settings.skip_warmup, self.skip_warmup.then_some(true));
        put(&mut settings.max_client_batch_size, self.max_client_batch_size);
        put(&mut settings.max_concurrent_requests, self.max_concurrent_requests);
        self.fleet.lay_over(settings);
        self.security.lay_over(settings);
        self.generation.lay_over(settings);
        self.limits.lay_over(settings);
        self.traces.lay_over(settings);
        put(&mut settings.mode, self.mode);
        put(&mut settings.pool_size, self.pool_size);
        put(&mut settings.batching, self.batching);
        put(&mut settings.tick_ms, self.tick_ms);
        put(&mut settings.embedding_cache_bytes, self.embedding_cache_bytes);
        put(&mut settings.lora_memory, self.lora_memory);
        put(&mut settings.host_cache_bytes, self.host_cache_bytes);
        put(&mut settings.payload_limit, self.payload_limit);
        put(&mut settings.shutdown_timeout, self.shutdown_timeout);
    }
}

fn put<T>(slot: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *slot = value;
    }
}

fn put_some<T>(slot: &mut Option<T>, flag: Option<T>) {
    if flag.is_some() {
        *slot = flag;
    }
}
