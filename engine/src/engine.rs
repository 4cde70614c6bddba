//! The engine: what it is made of, its start and its end.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use polylora_kernels::team;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::adapter_fallbacks::AdapterFallbacks;
use crate::adapter_loads::AdapterLoads;
use crate::adapter_source::AdapterSource;
use crate::admission::Admission;
use crate::desk::Desk;
use crate::device_turns::DeviceTurns;
use crate::embedding_path::EmbeddingPath;
use crate::instances::Instances;
use crate::memo::{Memo, MemoBase};
use crate::metrics::{Holdings, Metrics};
use crate::mode::Mode;
use crate::request_check::RequestCheck;
use crate::runner::RunnerFactory;
use crate::snapshot::Snapshot;
use crate::status::Status;
use crate::tokenize::{TokenBounds, Tokenize, TokenizePool};
use crate::warm_up_plan::WarmUpBounds;
use crate::worker::{self, WorkerHandle, WorkerParts};
use crate::{
    AdapterInfo, BoxFuture, DecodeRequest, EmbedError, EmbedReply, EmbedRequest, EmbeddingService,
    EngineConfig, Health, Limits, ModelInfo, StartError, TextToken, TokenizeRequest,
};

/// What an engine is made of.
pub struct EngineParts {
    /// The base model; its list of prompts is taken from `prompts`.
    pub model: ModelInfo,
    /// The model's tokenizer.
    pub tokenizer: Arc<dyn Tokenize>,
    /// Texts that go in front of inputs, by name.
    pub prompts: BTreeMap<String, String>,
    /// Name of the prompt that is used when none is asked for; token ids get none.
    pub default_prompt: Option<String>,
    /// The adapters.
    pub adapters: Arc<dyn AdapterSource>,
    /// Builds what computes, on the thread of its device: one for each instance, and at least one. With several, the
    /// compute threads are divided among them.
    pub runners: Vec<RunnerFactory>,
    /// Whose turn it is, where a language model computes on the same device; instances of a pool have none.
    pub turns: Option<DeviceTurns>,
    /// What metrics call the base model: vLLM's label `model_name`.
    pub metrics_label: String,
    /// How the model pools and normalises, in any words: a part of the embedding memo's keys.
    pub head: String,
}

/// An embedding engine with one device or several.
///
/// Dropping it lets their threads end on their own; [`shutdown`](Self::shutdown) waits for it.
pub struct Engine {
    model: ModelInfo,
    mode: Mode,
    instances: usize,
    limits: Limits,
    path: Arc<EmbeddingPath>,
    workers: Mutex<Vec<WorkerHandle>>,
}

/// What is in the engine now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Requests, from admission to reply.
    pub requests: usize,
    /// Their inputs.
    pub rows: usize,
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Every request in flight was answered.
    Drained,
    /// Time ran out: so many requests were answered with [`EmbedError::ShuttingDown`].
    Aborted {
        /// Requests in flight when time ran out.
        requests: usize,
    },
    /// The device's thread did not come back from its batch.
    Stuck,
}

/// How long a shutdown that ran out of time still waits for the batch on the device.
const ABORT_GRACE: Duration = Duration::from_secs(5);

impl Engine {
    /// Its count of fallbacks, for an engine beside it to count in.
    pub fn adapter_fallbacks(&self) -> AdapterFallbacks {
        self.path.metrics.adapter_fallbacks.clone()
    }

    /// Starts the engine's threads and a probe through all of them; must be called inside a tokio runtime.
    ///
    /// Returns at once, while the device is still being set up: [`health`](EmbeddingService::health) is
    /// [`Health::Starting`] until the probe came back, which [`ready`](Self::ready) waits for. Requests that come
    /// earlier wait for the device.
    ///
    /// # Errors
    /// A bound out of range, no runner, a thread that could not be started, no runtime.
    pub fn start(config: EngineConfig, parts: EngineParts) -> Result<Self, StartError> {
        let limits = config.check()?;
        let runtime = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        if parts.runners.is_empty() {
            let (field, max) = ("runners", usize::MAX);
            return Err(StartError::Config { field, found: 0, min: 1, max });
        }
        let EngineParts {
            mut model,
            tokenizer,
            prompts,
            default_prompt,
            adapters,
            runners,
            turns,
            metrics_label,
            head,
        } = parts;
        model.prompts = prompts.keys().cloned().collect();
        if tokenizer.vocab_size() > model.vocab_size {
            tracing::warn!(
                tokenizer = tokenizer.vocab_size(),
                model = model.vocab_size,
                "the tokenizer has more ids than the model: inputs that use them will be refused"
            );
        }
        let bounds = TokenBounds { max_tokens: model.max_tokens, vocab_size: model.vocab_size };
        let tokenizer = TokenizePool::start(tokenizer, bounds, config.tokenize_threads)?;
        let (status, metrics) = (Arc::new(Status::starting()), Arc::new(Metrics::new(&metrics_label)));
        let warm_up = config.warm_up.then(|| WarmUpBounds {
            max_batch_tokens: config.max_batch_tokens,
            adapters: !adapters.list().is_empty(),
        });
        let (instances, mut ways, mut workers) = (runners.len(), vec![], vec![]);
        for (index, factory) in runners.into_iter().enumerate() {
            let (jobs, inbox) = mpsc::channel(config.max_concurrent_requests);
            ways.push(jobs);
            let desk = Arc::new(Desk::new(inbox, limits, Arc::clone(&status)));
            // One by one there is nothing to make ready.
            if !config.mode.is_one_by_one() && !config.tick.is_zero() {
                desk.start_ticking(config.tick)?;
            }
            workers.push(worker::spawn(WorkerParts {
                name: if instances == 1 { "device".to_owned() } else { format!("device-{}", index + 1) },
                threads: (instances > 1).then(|| threads_of(index, instances, team::threads())),
                desk,
                warm_up,
                factory,
                dimensions: model.dimensions,
                turns: turns.clone(),
                status: Arc::clone(&status),
                metrics: Arc::clone(&metrics),
            })?);
        }
        let memo = Memo::new(
            config.embedding_cache_bytes,
            MemoBase {
                digest: &model.digest,
                dtype: &model.dtype,
                head: &head,
                dimensions: model.dimensions,
            },
        );
        let path = Arc::new(EmbeddingPath {
            check: RequestCheck {
                max_inputs: config.max_client_batch_size,
                max_chars: config.max_input_chars,
                dimensions: model.dimensions,
                default_prompt: default_prompt
                    .and_then(|name| prompts.get(&name).map(|text| text.as_str().into())),
                prompts: prompts.into_iter().map(|(name, text)| (name, text.into())).collect(),
            },
            // Both fit into 32 bits: `check` has seen them.
            admission: Admission::new(
                config.max_concurrent_requests as u32,
                config.max_in_flight_rows as u32,
            ),
            loads: AdapterLoads::new(Arc::clone(&adapters), runtime.clone()),
            instances: Mutex::new(Some(Instances::new(ways))),
            on_adapter_error: config.on_adapter_error,
            memo,
            tokenizer,
            adapters,
            status,
            metrics,
        });
        let probed = Arc::clone(&path);
        runtime.spawn(async move { probed.probe().await });
        let limits = Limits {
            concurrent_requests: config.max_concurrent_requests,
            client_batch_size: config.max_client_batch_size,
            input_chars: config.max_input_chars,
            batch_tokens: config.max_batch_tokens,
            tokenize_threads: config.tokenize_threads,
        };
        Ok(Self { model, mode: config.mode, instances, limits, path, workers: Mutex::new(workers) })
    }

    /// Waits until the probe came back.
    ///
    /// # Errors
    /// Why the device could not be set up, or why the probe failed.
    pub async fn ready(&self) -> Result<(), StartError> {
        self.path.status.ready().await
    }

    /// What is in the engine now.
    pub fn in_flight(&self) -> InFlight {
        InFlight { requests: self.path.admission.requests(), rows: self.path.admission.rows() }
    }

    /// Refuses new requests, serves those in flight for at most `timeout`, then ends the device's thread.
    pub async fn shutdown(&self, timeout: Duration) -> Shutdown {
        let path = &self.path;
        let began = Instant::now();
        path.status.stopping();
        let drained = path.admission.drained(timeout).await;
        let requests = path.admission.requests();
        if !drained {
            path.status.abort.store(true, Ordering::Release);
        }
        // A worker ends when the last sender is gone and it has answered all that was sent.
        drop(path.instances.lock().take());
        let workers = std::mem::take(&mut *self.workers.lock());
        let (grace, since) = (timeout.saturating_sub(began.elapsed()).max(ABORT_GRACE), Instant::now());
        let mut ended = true;
        for worker in workers {
            ended &= worker.join(grace.saturating_sub(since.elapsed())).await;
        }
        match (drained, ended) {
            (true, true) => Shutdown::Drained,
            (false, true) => Shutdown::Aborted { requests },
            (_, false) => Shutdown::Stuck,
        }
    }
}

/// Threads of the instance numbered `index` of `instances`, when `threads` are divided: at least one.
fn threads_of(index: usize, instances: usize, threads: usize) -> NonZeroUsize {
    let share = threads / instances + usize::from(index < threads % instances);
    NonZeroUsize::new(share).unwrap_or(NonZeroUsize::MIN)
}

impl EmbeddingService for Engine {
    fn embed(&self, request: EmbedRequest) -> BoxFuture<'_, Result<EmbedReply, EmbedError>> {
        Box::pin(async move {
            let count = self.path.metrics.request();
            let answer = self.path.embed(request).await;
            count.end(&answer);
            answer
        })
    }

    fn tokenize(&self, request: TokenizeRequest) -> BoxFuture<'_, Result<Vec<Vec<TextToken>>, EmbedError>> {
        Box::pin(self.path.tokens_of(request))
    }

    fn decode(&self, request: DecodeRequest) -> BoxFuture<'_, Result<Vec<String>, EmbedError>> {
        Box::pin(self.path.texts_of(request))
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        self.path.adapters.list()
    }

    fn health(&self) -> Health {
        self.path.status.health()
    }

    fn render_metrics(&self) -> String {
        let memo_bytes = self.path.memo.as_ref().map_or(0, Memo::bytes);
        self.path.metrics.render(Holdings { adapters: self.path.adapters.memory(), memo_bytes })
    }

    fn snapshot(&self) -> Snapshot {
        let metrics = &self.path.metrics;
        Snapshot {
            device: self.model.device.clone(),
            mode: self.mode.to_string(),
            instances: self.instances,
            ..metrics.lately.snapshot(&metrics.traffic)
        }
    }

    fn shutdown(&self, timeout: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            match Engine::shutdown(self, timeout).await {
                Shutdown::Drained => tracing::debug!("the engine has stopped"),
                Shutdown::Aborted { requests } => {
                    tracing::warn!(requests, "the engine has stopped with requests in flight");
                }
                Shutdown::Stuck => tracing::warn!("the device's thread did not come back from its batch"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_divided_without_rest_and_every_instance_has_one() {
        for (threads, instances) in [(1, 4), (2, 4), (4, 4), (7, 3), (64, 5)] {
            let shares: Vec<usize> =
                (0..instances).map(|i| threads_of(i, instances, threads).get()).collect();
            assert_eq!(shares.iter().sum::<usize>(), threads.max(instances), "{threads} {instances}");
            assert!(shares.iter().all(|&share| share + 1 >= shares[0] && share <= shares[0]), "{shares:?}");
        }
    }
}
