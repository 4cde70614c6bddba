//! A request's way through the engine: checks, admission, tokenizer and adapter, device, reply.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::adapter_loads::AdapterLoads;
use crate::adapter_source::{AdapterQuery, AdapterSource, FoundAdapter, ServedAdapter};
use crate::admission::Admission;
use crate::embedding_cut::cut_and_normalise;
use crate::instances::{Burden, Instances};
use crate::memo::Memo;
use crate::memo_path::RowsToRun;
use crate::metrics::{Metrics, seconds};
use crate::request_check::RequestCheck;
use crate::row_gather::{EmbedJob, JobReply};
use crate::status::Status;
use crate::token_requests::MOST_TOKEN_VECTORS;
use crate::tokenize::{TokenizeJob, TokenizePool};
use crate::traffic::{DomainTraffic, SubmittedRequest, WaitingRows};
use crate::{
    Blame, EmbedError, EmbedInput, EmbedReply, EmbedRequest, OnAdapterError, RowOutput, ServedBy, StartError,
    Ticket, Timings, TruncationSide,
};

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
    /// What a request gets whose adapter cannot be loaded.
    pub(crate) on_adapter_error: OnAdapterError,
    /// The ways to the devices; `None` once the engine has stopped.
    pub(crate) instances: Mutex<Option<Instances>>,
    /// What rows became, if that is kept.
    pub(crate) memo: Option<Memo>,
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
        let found = self.find(&request)?;
        let _permits = self.admission.admit(request.inputs.len())?;
        let traffic = match &found {
            // Whoever invents names must not use up those that are told apart.
            Found::Adapter(FoundAdapter::NotLoaded(Ticket::Resolve(_))) => self.metrics.traffic.others(),
            Found::Base | Found::Adapter(_) | Found::Fallback(_) => {
                self.metrics.traffic.domain(request.adapter.as_deref())
            }
        };
        traffic.request();
        self.compute(request, prompt, (found, traffic)).await
    }

    /// Sends one text through tokenizer and every device, past admission: clients that come early must not keep the
    /// engine from becoming ready.
    pub(crate) async fn probe(&self) {
        match self.probe_all().await {
            Ok(()) => self.status.probe_succeeded(),
            Err(error) => {
                tracing::error!(%error, "the first request through the device failed");
                self.status.failed(StartError::Probe(error));
            }
        }
    }

    async fn probe_all(&self) -> Result<(), EmbedError> {
        let inputs = vec![EmbedInput::Text("probe".to_owned())];
        let (rows, _) = self
            .tokenize(TokenizeJob {
                inputs,
                prompt: None,
                truncate: true,
                truncation_side: TruncationSide::Right,
            })
            .await?;
        let instances = self.instances.lock().as_ref().map_or(0, Instances::len);
        for index in 0..instances {
            let way = self.instances.lock().as_ref().and_then(|instances| instances.at(index, rows.len()));
            let (rows, traffic) = (rows.clone(), self.metrics.traffic.domain(None));
            let (claims, output) = (vec![], RowOutput::Embedding);
            self.run_at(way, RowsToRun { rows, claims, adapter: None, output, traffic }).await?;
        }
        Ok(())
    }

    /// The way of a request that was let in.
    async fn compute(
        &self,
        request: EmbedRequest,
        prompt: Option<Arc<str>>,
        (found, traffic): (Found, Arc<DomainTraffic>),
    ) -> Result<EmbedReply, EmbedError> {
        let began = Instant::now();
        let EmbedRequest { inputs, dimensions, truncate, truncation_side, output, .. } = request;
        let tokenize = self.tokenize(TokenizeJob { inputs, prompt, truncate, truncation_side });
        let load = self.load(found);
        let ((rows, tokenize), Chosen { adapter, fallback_reason }) = tokio::try_join!(tokenize, load)?;
        let (adapter, served_by) = adapter.map(|served| (served.adapter, served.served_by)).unzip();
        let tokens = rows.iter().map(|row| row.len()).sum();
        if output == RowOutput::Tokens && tokens > MOST_TOKEN_VECTORS {
            return Err(EmbedError::TooManyTokens { found: tokens, max: MOST_TOKEN_VECTORS });
        }
        let job = RowsToRun { rows, claims: vec![], adapter, output, traffic };
        let ran = match &self.memo {
            // A vector for each token would push everything else out.
            Some(memo) if output != RowOutput::Tokens => self.run_memoised(memo, job).await,
            Some(_) | None => self.run(job).await,
        };
        self.tell_outcome(served_by.as_ref(), &ran, began);
        let JobReply { mut embeddings, queue, compute } = ran?;
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
        let timings = Timings { tokenize, queue, compute };
        Ok(EmbedReply { embeddings, tokens, served_by, fallback_reason, timings })
    }

    /// What a request's adapter is, as far as it can be said without waiting.
    fn find(&self, request: &EmbedRequest) -> Result<Found, EmbedError> {
        let Some(name) = request.adapter.as_deref() else { return Ok(Found::Base) };
        match self.adapters.find(&AdapterQuery { name, split_key: request.split_key }) {
            Ok(found) => Ok(Found::Adapter(found)),
            Err(error) => self.instead(error).map(Found::Fallback),
        }
    }

    /// The reason to tell when the base model answers in place of an adapter that failed with `error`.
    fn instead(&self, error: EmbedError) -> Result<String, EmbedError> {
        let is_the_adapters = matches!(error, EmbedError::AdapterInvalid { .. });
        if is_the_adapters && self.on_adapter_error == OnAdapterError::Base {
            self.metrics.adapter_fallbacks.count();
            return Ok(error.to_string());
        }
        Err(error)
    }

    /// Has the adapter's source hear how a version fared; what the client or the load is to blame for is nothing to it.
    fn tell_outcome(&self, served_by: Option<&ServedBy>, ran: &Result<JobReply, EmbedError>, began: Instant) {
        let Some(served_by) = served_by else { return };
        let is_ok = match ran {
            Ok(_) => true,
            Err(error) if error.blame() == Blame::Server => false,
            Err(_) => return,
        };
        self.adapters.answered(served_by.id, is_ok, began.elapsed());
    }

    async fn tokenize(&self, job: TokenizeJob) -> Result<(Vec<Arc<[u32]>>, Duration), EmbedError> {
        let began = Instant::now();
        let rows = self.tokenizer.encode(job).await?;
        let took = began.elapsed();
        self.metrics.tokenize_seconds.observe(seconds(took));
        Ok((rows, took))
    }

    async fn load(&self, found: Found) -> Result<Chosen, EmbedError> {
        let ticket = match found {
            Found::Base => return Ok(Chosen::default()),
            Found::Fallback(reason) => return Ok(Chosen { fallback_reason: Some(reason), adapter: None }),
            Found::Adapter(FoundAdapter::Loaded(adapter)) => {
                return Ok(Chosen { adapter: Some(adapter), fallback_reason: None });
            }
            Found::Adapter(FoundAdapter::NotLoaded(ticket)) => ticket,
        };
        match self.loads.load(&ticket).await {
            Ok(adapter) => Ok(Chosen { adapter: Some(adapter), fallback_reason: None }),
            Err(error) => Ok(Chosen { fallback_reason: Some(self.instead(error)?), adapter: None }),
        }
    }

    /// Sends rows to the device that has the fewest and waits for its answer.
    pub(crate) async fn run(&self, job: RowsToRun) -> Result<JobReply, EmbedError> {
        let way = self.instances.lock().as_ref().map(|instances| instances.least_burdened(job.rows.len()));
        self.run_at(way.ok_or(EmbedError::ShuttingDown)?, job).await
    }

    async fn run_at(&self, way: Option<Way>, job: RowsToRun) -> Result<JobReply, EmbedError> {
        let (jobs, burden) = way.ok_or_else(|| self.worker_is_gone())?;
        let RowsToRun { rows, claims, adapter, output, traffic } = job;
        let (reply, answer) = oneshot::channel();
        let submitted = Instant::now();
        let request = traffic.request_is_submitted();
        let mut awaited =
            Awaited { answer, status: &self.status, is_answered: false, _burden: burden, _request: request };
        let place = jobs.reserve().await.map_err(|_| self.worker_is_gone())?;
        let count = rows.len();
        place.send(EmbedJob {
            rows,
            claims,
            adapter,
            output,
            waiting: WaitingRows::counted(&traffic, count),
            submitted,
            reply,
        });
        // After they were sent: who sees them counted may rely on the device finding them.
        traffic.rows_wait(count);
        drop(jobs);
        let answer = (&mut awaited.answer).await;
        // Of a request that failed other rows may still be queued; those who wait for them shall not wait long.
        awaited.is_answered = matches!(answer, Ok(Ok(_)));
        answer.unwrap_or_else(|_| Err(self.worker_is_gone()))
    }

    fn worker_is_gone(&self) -> EmbedError {
        match self.status.is_stopping() {
            true => EmbedError::ShuttingDown,
            false => EmbedError::Unavailable { reason: "its worker is gone".to_owned() },
        }
    }
}

/// What a look at a request's adapter found.
enum Found {
    /// It asks for none.
    Base,
    /// There is one.
    Adapter(FoundAdapter),
    /// There is one that cannot be used, and the base model answers; why.
    Fallback(String),
}

/// What a request is computed with.
#[derive(Default)]
struct Chosen {
    adapter: Option<ServedAdapter>,
    fallback_reason: Option<String>,
}

/// The way to a device, and the rows counted on it.
type Way = (mpsc::Sender<EmbedJob>, Burden);

/// A reply that is waited for. Dropped before all embeddings came, it tells the worker that some queued rows are nobody's.
struct Awaited<'a> {
    answer: oneshot::Receiver<Result<JobReply, EmbedError>>,
    status: &'a Status,
    is_answered: bool,
    _burden: Burden,
    _request: SubmittedRequest,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.answer.close();
            self.status.client_left();
        }
    }
}
