//! Requests in, embeddings out.
//!
//! A request's way: checks and [admission](EngineConfig) (bounded permits, refused at once when none is left), then
//! tokenising on a pool of threads while its adapter is found or loaded, then one job to the desk of a
//! device. There the [`Scheduler`] fills batches from queues by [`Domain`], the next while one runs; on the device's own
//! thread a [`Runner`] computes them, and each request is answered by a one-shot when its last row is done. A client that leaves drops its future: its permits
//! go back at once, its waiting rows are dropped before the next batch is filled.
//!
//! The scheduler knows no tensor, no clock and no async; the [`Runner`] knows no request; nothing here knows JSON or
//! status codes.

mod adapter_fallbacks;
mod adapter_loads;
mod adapter_places;
mod adapter_source;
mod adapters_of;
mod admission;
mod batch_policy;
mod bisection;
mod config;
mod desk;
mod device_trial;
mod device_turns;
mod embedding_cut;
mod embedding_path;
mod encoder_runner;
mod engine;
mod error;
mod fleet_source;
mod generate_error;
mod generate_request;
mod generation;
mod generation_service;
mod generation_stream;
mod instances;
mod lately;
mod memo;
mod memo_path;
pub mod metrics;
mod mode;
mod recent;
mod request;
mod request_check;
mod row_gather;
mod runner;
mod runner_builder;
mod scheduler;
mod service;
mod snapshot;
mod status;
mod text_tokenizer;
mod token_requests;
mod tokenize;
mod traffic;
mod warm_up;
mod warm_up_adapter;
mod warm_up_plan;
mod worker;

pub use adapter_fallbacks::AdapterFallbacks;
pub use adapter_places::LoraRoom;
pub use adapter_source::{AdapterMemory, AdapterQuery, AdapterSource, FoundAdapter, ServedAdapter};
pub use adapters_of::AdaptersOf;
pub use batch_policy::BatchLimits;
pub use config::{EngineConfig, OnAdapterError, StartError};
pub use device_turns::DeviceTurns;
pub use encoder_runner::EncoderRunner;
pub use engine::{Engine, EngineParts, InFlight, Shutdown};
pub use error::{Blame, EmbedError};
pub use generate_error::GenerateError;
pub use generate_request::{
    ChatPrompt, GenerateRequest, Prompt, SamplingRequest, TemplateKind, TemplateValue,
};
pub use generation::{
    CPU_STEP_TOKENS, CausalRunner, Decoding, GenerationConfigs, GenerationEngine, GenerationParts,
    MAX_PROMPTS, StepAdapters, StepOutput, StepRowOutcome, StepRunner, StepRunnerFactory, Streams,
};
pub use generation_service::{GenerationService, LlmInfo, StartingGeneration};
pub use generation_stream::{
    Finish, GeneratedToken, GenerationEvent, GenerationStream, StartTimings, StopMatch, TopToken,
};
pub use mode::{Batching, Mode};
pub use polylora_adapters::{SplitKey, Ticket, VersionId};
pub use polylora_generation::{MAX_LOGIT_BIASES, MAX_STOP_BYTES, MAX_STOP_STRINGS, MAX_STOP_TOKEN_IDS};
pub use polylora_models::TextToken;
pub use request::{EmbedInput, EmbedReply, EmbedRequest, RowOutput, ServedBy, Timings, TruncationSide};
pub use runner::{Batch, BatchOutput, BatchRow, PoolUsage, RowOutcome, RunError, Runner, RunnerFactory};
pub use scheduler::{Commit, Domain, Picked, PickedBatch, Row, Scheduler};
pub use service::{AdapterInfo, BoxFuture, EmbeddingService, Health, Limits, ModelInfo};
pub use snapshot::{DomainLabel, DomainSnapshot, LatencySnapshot, Snapshot};
pub use token_requests::{DecodeRequest, TokenizeRequest};
pub use tokenize::Tokenize;
pub use warm_up_plan::{MOST_WARM_TOKENS, WarmUpBounds, WarmUpDepth, WarmUpShape, warm_up_plan};
