//! The generation engine: its bounds, its start and its end.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use polylora_generation::SchedulerLimits;
use polylora_models::{LanguageModel, TextToken};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::generation_metrics::GenerationMetrics;
use super::generation_path::GenerationPath;
use super::generation_worker::{self, ABORT_GRACE, GenerationWorkerParts, StepRunnerFactory};
use super::prompt_reader::ModelText;
use super::prompt_scores::most_targets;
use super::reading_room::ReadingRoom;
use crate::adapter_loads::AdapterLoads;
use crate::adapter_source::{AdapterQuery, AdapterSource};
use crate::admission::{Admission, Permits};
use crate::device_turns::DeviceTurns;
use crate::status::Status;
use crate::{
    AdapterFallbacks, AdapterInfo, BoxFuture, GenerateError, GenerateRequest, GenerationService,
    GenerationStream, Health, LlmInfo, OnAdapterError, Prompt, Snapshot, StartError, StartingGeneration,
};

/// Bounds of a [`GenerationEngine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationConfigs {
    /// Requests in flight; others are refused at once.
    pub max_concurrent_requests: usize,
    /// Characters in one prompt.
    pub max_input_chars: usize,
    /// Tokens in a block of the KV cache.
    pub block_size: NonZeroUsize,
    /// Blocks of the KV cache.
    pub blocks: NonZeroU32,
    /// Tokens in one step.
    pub max_batch_tokens: NonZeroUsize,
    /// Sequences that hold blocks at one time.
    pub max_running: NonZeroUsize,
    /// Distinct adapters in one step; `None` for any number.
    pub most_adapters: Option<NonZeroUsize>,
    /// Whether blocks of equal prefixes are shared between requests.
    pub prefix_caching: bool,
    /// What a request gets whose adapter cannot be loaded.
    pub on_adapter_error: OnAdapterError,
    /// Whether the device computes a first step before the engine is ready.
    pub warm_up: bool,
}

/// What a generation engine is made of.
pub struct GenerationParts {
    /// The base model, as clients may know it.
    pub info: LlmInfo,
    /// The base model.
    pub model: Arc<LanguageModel>,
    /// The adapters.
    pub adapters: Arc<dyn AdapterSource>,
    /// Builds what computes, on the thread of its device.
    pub runner: StepRunnerFactory,
    /// Whose turn it is, where an embedding model computes on the same device.
    pub turns: Option<DeviceTurns>,
    /// What metrics call the base model: vLLM's label `model_name`.
    pub metrics_label: String,
    /// Where fallbacks to the base are counted: an embedding engine's, where there is one.
    pub fallbacks: AdapterFallbacks,
}

/// An engine that generates text.
pub struct GenerationEngine {
    info: LlmInfo,
    way: Arc<GenerationPath>,
    worker: Mutex<Option<oneshot::Receiver<()>>>,
}

/// Prompts of one client's request: so many may wait for their first step, for each request that may be in flight.
pub const MAX_PROMPTS: usize = 256;
/// Tokens in one step on the CPU: a prompt's part, beside the texts that go on. More would not make it faster, but have
/// everybody wait longer for his next token.
pub const CPU_STEP_TOKENS: usize = 128;

impl GenerationEngine {
    /// Starts the engine's thread; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// A bound out of range, no thread, no runtime.
    pub fn start(configs: GenerationConfigs, parts: GenerationParts) -> Result<Self, StartError> {
        let runtime = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let GenerationParts { info, model, adapters, runner, turns, metrics_label, fallbacks } = parts;
        let requests = match u32::try_from(configs.max_concurrent_requests) {
            Ok(requests) if requests > 0 => requests,
            _ => {
                let (field, found) = ("max_concurrent_requests", configs.max_concurrent_requests);
                return Err(StartError::Config { field, found, min: 1, max: u32::MAX as usize });
            }
        };
        // A request is let in as a whole, so the scheduler has room for all of it.
        let prompts = requests.saturating_mul(MAX_PROMPTS as u32);
        let context = info.max_model_len.min(model.context());
        let limits = SchedulerLimits {
            block_size: configs.block_size,
            blocks: configs.blocks,
            max_context: NonZeroUsize::new(context).unwrap_or(NonZeroUsize::MIN),
            max_batch_tokens: configs.max_batch_tokens,
            max_running: configs.max_running,
            max_waiting: NonZeroUsize::new(prompts as usize).unwrap_or(NonZeroUsize::MIN),
            max_targets: most_targets(model.vocab_size()),
            most_adapters: configs.most_adapters,
            prefix_caching: configs.prefix_caching,
        };
        let (jobs, inbox) = mpsc::channel(configs.max_concurrent_requests);
        let metrics = Arc::new(GenerationMetrics::new(&metrics_label, &fallbacks));
        let status = Arc::new(Status::starting());
        let worker = generation_worker::spawn(GenerationWorkerParts {
            inbox,
            limits,
            factory: runner,
            door: Arc::new(ModelText(Arc::clone(&model))),
            warms_up: configs.warm_up,
            turns,
            status: Arc::clone(&status),
            metrics: Arc::clone(&metrics),
        })?;
        let way = GenerationPath {
            loads: AdapterLoads::new(Arc::clone(&adapters), runtime),
            model,
            context,
            adapters,
            admission: Admission::new(requests, prompts),
            reading: ReadingRoom::one_a_core(),
            jobs: Mutex::new(Some(jobs)),
            status,
            metrics,
            configs,
            seeds: AtomicU64::new(RandomState::new().build_hasher().finish()),
        };
        Ok(Self { info, way: Arc::new(way), worker: Mutex::new(Some(worker)) })
    }

    /// Waits until the device is set up.
    ///
    /// # Errors
    /// Why it could not be.
    pub async fn ready(&self) -> Result<(), StartError> {
        self.way.status.ready().await
    }

    fn admit(&self, prompts: usize) -> Result<Arc<Permits>, GenerateError> {
        self.way.admit(prompts).inspect_err(|error| self.way.metrics.failed(error.code()))
    }

    /// The way of a prompt that was let in.
    fn begin(&self, request: GenerateRequest, permits: Arc<Permits>) -> StartingGeneration {
        let way = Arc::clone(&self.way);
        Box::pin(async move {
            let metrics = Arc::clone(&way.metrics);
            way.generate(request, permits).await.inspect_err(|error| metrics.failed(error.code()))
        })
    }
}

impl GenerationService for GenerationEngine {
    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<GenerationStream, GenerateError>> {
        Box::pin(async move {
            let permits = self.admit(1)?;
            self.begin(request, permits).await
        })
    }

    fn generate_all(&self, requests: Vec<GenerateRequest>) -> Result<Vec<StartingGeneration>, GenerateError> {
        let permits = self.admit(requests.len())?;
        Ok(requests.into_iter().map(|request| self.begin(request, Arc::clone(&permits))).collect())
    }

    fn tokenize(
        &self,
        prompt: Prompt,
        adapter: Option<String>,
        add_special_tokens: bool,
    ) -> BoxFuture<'_, Result<Vec<TextToken>, GenerateError>> {
        Box::pin(async move {
            // All have one tokenizer; only a conversation's template may be the adapter's own.
            let query = adapter.as_deref().filter(|_| matches!(prompt, Prompt::Chat(_)));
            let query = query.map(|name| AdapterQuery { name, split_key: None });
            let own = self.way.choose(query).await?.loaded();
            self.way.with_reader(own, (), move |reader| reader.tokens(prompt, add_special_tokens)).await
        })
    }

    fn detokenize(&self, ids: Vec<u32>) -> BoxFuture<'_, Result<String, GenerateError>> {
        Box::pin(self.way.with_reader(None, (), move |reader| Ok(reader.text_of(&reader.checked(ids)?))))
    }

    fn model(&self) -> &LlmInfo {
        &self.info
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        self.way.adapters.list()
    }

    fn health(&self) -> Health {
        self.way.status.health()
    }

    fn render_metrics(&self) -> String {
        self.way.metrics.render()
    }

    fn snapshot(&self) -> Snapshot {
        let metrics = &self.way.metrics;
        Snapshot {
            device: self.info.device.clone(),
            mode: "continuous batching".to_owned(),
            instances: 1,
            ..metrics.lately.snapshot(&metrics.traffic)
        }
    }

    fn shutdown(&self, timeout: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.way.status.stopping();
            let is_drained = self.way.admission.drained(timeout).await;
            if !is_drained {
                self.way.status.abort.store(true, Ordering::Release);
                tracing::warn!("texts are still being generated: they are broken off");
            }
            // Without senders the worker ends.
            self.way.jobs.lock().take();
            let worker = self.worker.lock().take();
            if let Some(worker) = worker
                && tokio::time::timeout(ABORT_GRACE, worker).await.is_err()
            {
                tracing::warn!("the language model's thread did not come back from its step");
            }
        })
    }
}
