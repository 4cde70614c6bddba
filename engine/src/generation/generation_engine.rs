//! The generation engine: a request's way from prompt to stream, its start and its end.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use polylora_adapters::{BaseModel, Digest, DigestBuilder, LoadedAdapter};
use polylora_generation::{Domain, NewSequence, PrefixRoot, SchedulerLimits, SequenceId};
use polylora_models::{LanguageModel, TextToken};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::generation_metrics::GenerationMetrics;
use super::generation_worker::{self, ABORT_GRACE, GenerationWorkerParts, StepRunnerFactory, adapter_key};
use super::live_request::{GenerationJob, Started, TextSide, most_events};
use super::prompt_reader::{ModelText, PromptReader, templates_of};
use super::prompt_scores::{PromptScores, most_targets};
use super::sampling_rules::{SequenceBounds, sampling_params};
use crate::adapter_loads::AdapterLoads;
use crate::adapter_source::{AdapterQuery, AdapterSource, FoundAdapter, ServedAdapter};
use crate::admission::Admission;
use crate::device_turns::DeviceTurns;
use crate::status::Status;
use crate::{
    AdapterInfo, BoxFuture, EmbedError, GenerateError, GenerateRequest, GeneratedToken, GenerationService,
    GenerationStream, Health, LlmInfo, OnAdapterError, Prompt, StartError,
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
}

/// An engine that generates text.
pub struct GenerationEngine {
    info: LlmInfo,
    way: Arc<Way>,
    worker: Mutex<Option<oneshot::Receiver<()>>>,
}

/// All that a request passes.
struct Way {
    model: Arc<LanguageModel>,
    adapters: Arc<dyn AdapterSource>,
    loads: AdapterLoads,
    admission: Admission,
    jobs: Mutex<Option<mpsc::Sender<GenerationJob>>>,
    status: Arc<Status>,
    metrics: Arc<GenerationMetrics>,
    configs: GenerationConfigs,
    /// The seed of the next request that brings none; counts up from a random number.
    seeds: AtomicU64,
}

/// What a request is computed with.
#[derive(Default)]
struct Chosen {
    adapter: Option<ServedAdapter>,
    fallback_reason: Option<String>,
}

impl Chosen {
    fn loaded(&self) -> Option<LoadedAdapter> {
        self.adapter.as_ref().map(|served| served.adapter.clone())
    }
}

impl GenerationEngine {
    /// Starts the engine's thread; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// A bound out of range, no thread, no runtime.
    pub fn start(configs: GenerationConfigs, parts: GenerationParts) -> Result<Self, StartError> {
        let runtime = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let GenerationParts { info, model, adapters, runner, turns } = parts;
        let requests = match u32::try_from(configs.max_concurrent_requests) {
            Ok(requests) if requests > 0 => requests,
            _ => {
                let (field, found) = ("max_concurrent_requests", configs.max_concurrent_requests);
                return Err(StartError::Config { field, found, min: 1, max: u32::MAX as usize });
            }
        };
        let limits = SchedulerLimits {
            block_size: configs.block_size,
            blocks: configs.blocks,
            max_context: NonZeroUsize::new(model.context()).unwrap_or(NonZeroUsize::MIN),
            max_batch_tokens: configs.max_batch_tokens,
            max_running: configs.max_running,
            max_waiting: NonZeroUsize::new(configs.max_concurrent_requests).unwrap_or(NonZeroUsize::MIN),
            max_targets: most_targets(model.vocab_size()),
            most_adapters: configs.most_adapters,
            prefix_caching: configs.prefix_caching,
        };
        let (jobs, inbox) = mpsc::channel(configs.max_concurrent_requests);
        let (status, metrics) = (Arc::new(Status::starting()), Arc::new(GenerationMetrics::new()));
        let worker = generation_worker::spawn(GenerationWorkerParts {
            inbox,
            limits,
            factory: runner,
            side: TextSide {
                door: Arc::new(ModelText(Arc::clone(&model))),
                eos: model.end_token_ids().into(),
            },
            turns,
            status: Arc::clone(&status),
            metrics: Arc::clone(&metrics),
        })?;
        let way = Way {
            loads: AdapterLoads::new(Arc::clone(&adapters), runtime),
            model,
            adapters,
            // A request may ask for as many copies as run at one time.
            admission: Admission::new(requests, requests.saturating_mul(polylora_generation::MAX_N as u32)),
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
}

impl Way {
    async fn generate(self: Arc<Self>, request: GenerateRequest) -> Result<GenerationStream, GenerateError> {
        if self.status.is_stopping() {
            return Err(GenerateError::ShuttingDown);
        }
        let copies = NonZeroUsize::new(request.copies)
            .filter(|copies| copies.get() <= polylora_generation::MAX_N)
            .ok_or(GenerateError::TooManyCopies { found: request.copies, max: polylora_generation::MAX_N })?;
        let permits = self.admission.admit(copies.get())?;
        let GenerateRequest { prompt, add_special_tokens, adapter, split_key, echo, sampling, .. } = request;
        let query = adapter.as_deref().map(|name| AdapterQuery { name, split_key });
        let (chosen, prompt) = match prompt {
            // It may be the adapter's own template that makes a text of it.
            Prompt::Chat(_) if query.is_some() => {
                let chosen = self.choose(query).await?;
                let prompt = self.read(prompt, add_special_tokens, chosen.loaded()).await?;
                (chosen, prompt)
            }
            _ => tokio::try_join!(self.choose(query), self.read(prompt, add_special_tokens, None))?,
        };
        let bounds = SequenceBounds {
            prompt: prompt.len(),
            context: self.model.context(),
            vocab_size: self.model.vocab_size(),
        };
        let params = sampling_params(&sampling, copies.get(), self.model.generation(), bounds)?;
        let max_tokens = params.max_tokens.and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
        let (adapter, served_by) = chosen.adapter.map(|served| (served.adapter, served.served_by)).unzip();
        let (started, starts) = oneshot::channel();
        let (events, stream) = mpsc::channel(most_events(copies.get(), max_tokens.get()));
        let root = prefix_root(self.model.digest(), adapter.as_ref().map(|adapter| adapter.digest));
        let job = GenerationJob {
            sequence: NewSequence {
                id: SequenceId(0),
                prompt: prompt.to_vec(),
                root,
                domain: adapter.as_ref().map_or(Domain::Base, |a| Domain::Adapter(adapter_key(a))),
                copies,
                max_tokens,
                scores_prompt: params.prompt_logprobs.is_some(),
            },
            adapter,
            params,
            seed: self.seeds.fetch_add(1, Ordering::Relaxed),
            submitted: Instant::now(),
            started,
            events,
            permits,
        };
        let jobs = self.jobs.lock().clone().ok_or(GenerateError::ShuttingDown)?;
        let began = Instant::now();
        jobs.send(job).await.map_err(|_| self.worker_is_gone())?;
        let outcome = starts.await.unwrap_or_else(|_| Err(self.worker_is_gone()));
        if let Some(served_by) = &served_by {
            self.adapters.answered(served_by.id, outcome.is_ok(), began.elapsed());
        }
        let Started { cached_tokens, prompt_scores } = outcome?;
        let prompt_logprobs = match prompt_scores {
            Some(scores) => Some(self.told(scores, Arc::clone(&prompt)).await?),
            None => None,
        };
        let max_chars = self.configs.max_input_chars;
        let reader = PromptReader { model: &self.model, max_chars, templates: None };
        Ok(GenerationStream {
            prompt_text: echo.then(|| reader.text_of(&prompt)),
            prompt_tokens: prompt,
            cached_tokens,
            prompt_logprobs,
            served_by,
            fallback_reason: chosen.fallback_reason,
            events: stream,
        })
    }

    /// The token ids of a prompt, read where it disturbs nobody.
    async fn read(
        &self,
        prompt: Prompt,
        special: bool,
        adapter: Option<LoadedAdapter>,
    ) -> Result<Arc<[u32]>, GenerateError> {
        let ids = self.with_reader(adapter, move |reader| reader.ids(prompt, special)).await?;
        Ok(ids.into())
    }

    /// The scored tokens of a prompt, where making their texts disturbs nobody.
    async fn told(
        &self,
        scores: PromptScores,
        prompt: Arc<[u32]>,
    ) -> Result<Vec<GeneratedToken>, GenerateError> {
        let door = ModelText(Arc::clone(&self.model));
        self.with_reader(None, move |_| Ok(scores.told(&prompt, &door))).await
    }

    /// Conversations go through `adapter`.
    async fn with_reader<T: Send + 'static>(
        &self,
        adapter: Option<LoadedAdapter>,
        work: impl FnOnce(PromptReader<'_>) -> Result<T, GenerateError> + Send + 'static,
    ) -> Result<T, GenerateError> {
        let (model, max_chars) = (Arc::clone(&self.model), self.configs.max_input_chars);
        let read = tokio::task::spawn_blocking(move || {
            let templates = templates_of(&model, adapter.as_ref());
            work(PromptReader { model: &model, max_chars, templates })
        });
        read.await.unwrap_or_else(|error| {
            Err(GenerateError::Internal { reason: format!("the prompt could not be read: {error}") })
        })
    }

    async fn choose(&self, query: Option<AdapterQuery<'_>>) -> Result<Chosen, GenerateError> {
        let Some(query) = query else { return Ok(Chosen::default()) };
        let found = match self.adapters.find(&query) {
            Ok(FoundAdapter::Loaded(adapter)) => Ok(adapter),
            Ok(FoundAdapter::NotLoaded(ticket)) => self.loads.load(&ticket).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(adapter) => Ok(Chosen { adapter: Some(adapter), fallback_reason: None }),
            Err(error @ EmbedError::AdapterInvalid { .. })
                if self.configs.on_adapter_error == OnAdapterError::Base =>
            {
                Ok(Chosen { adapter: None, fallback_reason: Some(error.to_string()) })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn worker_is_gone(&self) -> GenerateError {
        match self.status.is_stopping() {
            true => GenerateError::ShuttingDown,
            false => GenerateError::Unavailable { reason: "its worker is gone".to_owned() },
        }
    }
}

impl GenerationService for GenerationEngine {
    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<GenerationStream, GenerateError>> {
        let way = Arc::clone(&self.way);
        Box::pin(async move {
            let metrics = Arc::clone(&way.metrics);
            way.generate(request).await.inspect_err(|error| metrics.failed(error.code()))
        })
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
            self.way.with_reader(own, move |reader| reader.tokens(prompt, add_special_tokens)).await
        })
    }

    fn detokenize(&self, ids: Vec<u32>) -> BoxFuture<'_, Result<String, GenerateError>> {
        Box::pin(self.way.with_reader(None, move |reader| Ok(reader.text_of(&reader.checked(ids)?))))
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

/// What keys and values depend on besides the tokens: the base model and the adapter.
fn prefix_root(base: Digest, adapter: Option<Digest>) -> PrefixRoot {
    let root = DigestBuilder::new("polylora prefix root, layout 1").field(&base.0);
    let root = match adapter {
        None => root,
        Some(adapter) => root.field(&adapter.0),
    };
    PrefixRoot(root.finish().0)
}
