//! A request's way through the engine: checks, admission, tokenizer and adapter, device, reply.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use polylora_adapters::LoadedAdapter;
use tokio::sync::{mpsc, oneshot};

use crate::adapter_loads::AdapterLoads;
use crate::adapter_source::{AdapterSource, FoundAdapter};
use crate::admission::Admission;
use crate::embedding_cut::cut_and_normalise;
use crate::metrics::{Metrics, seconds};
use crate::request_check::RequestCheck;
use crate::row_gather::{EmbedJob, JobReply};
use crate::status::Status;
use crate::token_requests::MOST_TOKEN_VECTORS;
use crate::tokenize::{TokenizeJob, TokenizePool};
use crate::{EmbedError, EmbedInput, EmbedReply, EmbedRequest, RowOutput, StartError, Timings};

/// All that a request passes.
pub(crate) struct EmbeddingPath {
    /// What can be said of it at once.
    pub(crate) check: RequestCheck,
    /// Bounded permits.
    pub(crate) admission: Admission,
    /// Texts to ids.
    pub(crate) tokenizer: TokenizePool,
    /// Adapters by name.
    pub(crate) adapters: Arc<dyn AdapterSource>,
    /// Loads under way.
    pub(crate) loads: AdapterLoads,
    /// The way to the device; `None` once the engine has stopped.
    pub(crate) jobs: Mutex<Option<mpsc::Sender<EmbedJob>>>,
    /// The phase.
    pub(crate) status: Arc<Status>,
    /// Counts.
    pub(crate) metrics: Arc<Metrics>,
}

impl EmbeddingPath {
    /// Checks a request, lets it in and answers it.
    pub(crate) async fn embed(&self, request: EmbedRequest) -> Result<EmbedReply, EmbedError> {
        if self.status.is_stopping() {
            return Err(EmbedError::ShuttingDown);
        }
        let prompt = self.check.check(&request)?;
        let found = request.adapter.as_deref().map(|name| self.adapters.find(name)).transpose()?;
        let _permits = self.admission.admit(request.inputs.len())?;
        self.compute(request, prompt, found).await
    }

    /// Sends one text through tokenizer and device, past admission: clients that come early must not keep the engine
    /// from becoming ready.
    pub(crate) async fn probe(&self) {
        let request = EmbedRequest {
            inputs: vec![EmbedInput::Text("probe".to_owned())],
            truncate: true,
            ..EmbedRequest::default()
        };
        match self.compute(request, None, None).await {
            Ok(_) => self.status.probe_succeeded(),
            Err(error) => {
                tracing::error!(%error, "the first request through the device failed");
                self.status.failed(StartError::Probe(error));
            }
        }
    }

    /// The way of a request that was let in.
    async fn compute(
        &self,
        request: EmbedRequest,
        prompt: Option<Arc<str>>,
        found: Option<FoundAdapter>,
    ) -> Result<EmbedReply, EmbedError> {
        let EmbedRequest { inputs, adapter: name, dimensions, truncate, truncation_side, output, .. } =
            request;
        let tokenize = self.tokenize(TokenizeJob { inputs, prompt, truncate, truncation_side });
        let load = self.load(name, found);
        let ((rows, tokenize), adapter) = tokio::try_join!(tokenize, load)?;
        let tokens = rows.iter().map(|row| row.len()).sum();
        if output == RowOutput::Tokens && tokens > MOST_TOKEN_VECTORS {
            return Err(EmbedError::TooManyTokens { found: tokens, max: MOST_TOKEN_VECTORS });
        }
        let JobReply { mut embeddings, queue, compute } = self.run(rows, adapter, output).await?;
        match (dimensions, output) {
            (None, _) | (_, RowOutput::Tokens) => {}
            (Some(width), RowOutput::Raw) => embeddings.iter_mut().for_each(|embedding| {
                embedding.truncate(width);
                embedding.shrink_to_fit();
            }),
            (Some(width), RowOutput::Embedding | RowOutput::Normalized) => {
                embeddings.iter_mut().for_each(|embedding| cut_and_normalise(embedding, width));
            }
        }
        Ok(EmbedReply { embeddings, tokens, timings: Timings { tokenize, queue, compute } })
    }

    async fn tokenize(&self, job: TokenizeJob) -> Result<(Vec<Arc<[u32]>>, Duration), EmbedError> {
        let began = Instant::now();
        let rows = self.tokenizer.encode(job).await?;
        let took = began.elapsed();
        self.metrics.tokenize_seconds.observe(seconds(took));
        Ok((rows, took))
    }

    async fn load(
        &self,
        name: Option<String>,
        found: Option<FoundAdapter>,
    ) -> Result<Option<LoadedAdapter>, EmbedError> {
        match (name, found) {
            (_, Some(FoundAdapter::Loaded(adapter))) => Ok(Some(adapter)),
            (Some(name), Some(FoundAdapter::NotLoaded)) => self.loads.load(&name).await.map(Some),
            (_, None) | (None, Some(FoundAdapter::NotLoaded)) => Ok(None),
        }
    }

    /// Sends rows to the device's thread and waits for its answer.
    async fn run(
        &self,
        rows: Vec<Arc<[u32]>>,
        adapter: Option<LoadedAdapter>,
        output: RowOutput,
    ) -> Result<JobReply, EmbedError> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.lock().clone().ok_or(EmbedError::ShuttingDown)?;
        let mut awaited = Awaited { answer, status: &self.status, is_answered: false };
        let job = EmbedJob { rows, adapter, output, submitted: Instant::now(), reply };
        let rows = job.rows.len();
        jobs.send(job).await.map_err(|_| self.worker_is_gone())?;
        self.metrics.rows_wait(rows);
        drop(jobs);
        let answer = (&mut awaited.answer).await;
        awaited.is_answered = true;
        answer.unwrap_or_else(|_| Err(self.worker_is_gone()))
    }

    fn worker_is_gone(&self) -> EmbedError {
        match self.status.is_stopping() {
            true => EmbedError::ShuttingDown,
            false => EmbedError::Internal { reason: "the device's worker is gone".to_owned() },
        }
    }
}

/// A reply that is waited for. Dropped before it came, it tells the worker that some queued rows are nobody's.
struct Awaited<'a> {
    answer: oneshot::Receiver<Result<JobReply, EmbedError>>,
    status: &'a Status,
    is_answered: bool,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.answer.close();
            self.status.abandoned.store(true, Ordering::Release);
        }
    }
}
