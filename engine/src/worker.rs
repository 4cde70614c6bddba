//! The thread that owns a device: runs batches, answers, and gets up again after a panic.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use polylora_kernels::team;
use tokio::sync::oneshot;

use crate::bisection::{Bisection, Failure, Verdict};
use crate::desk::Desk;
use crate::device_trial::{DeviceTrial, try_device};
use crate::device_turns::DeviceTurns;
use crate::metrics::{BatchSize, Metrics, seconds};
use crate::row_gather::RequestRow;
use crate::runner::{Batch, BatchOutput, BatchRow, PoolUsage, RowOutcome, RunError, Runner, RunnerFactory};
use crate::runner_builder::{RunnerBuilder, panic_message};
use crate::scheduler::{Commit, Picked, PickedBatch, Row};
use crate::status::Status;
use crate::warm_up::warm_up;
use crate::warm_up_plan::WarmUpBounds;
use crate::{EmbedError, StartError};

/// What a worker is made of.
pub(crate) struct WorkerParts {
    /// Name of its thread.
    pub(crate) name: String,
    /// Compute threads of its own, the owner's included; `None` shares those of all.
    pub(crate) threads: Option<NonZeroUsize>,
    /// Where its batches come from; the worker ends when that has no more.
    pub(crate) desk: Arc<Desk>,
    /// What to warm up; `None` is nothing.
    pub(crate) warm_up: Option<WarmUpBounds>,
    /// Builds its runner.
    pub(crate) factory: RunnerFactory,
    /// Width of an embedding.
    pub(crate) dimensions: usize,
    /// Whose turn it is, where others compute on the device too.
    pub(crate) turns: Option<DeviceTurns>,
    /// Shared with the engine's front.
    pub(crate) status: Arc<Status>,
    /// Where it counts.
    pub(crate) metrics: Arc<Metrics>,
}

/// A running worker.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    thread: thread::JoinHandle<()>,
    ended: oneshot::Receiver<()>,
}

/// Starts the owner thread; the runner is built there.
pub(crate) fn spawn(parts: WorkerParts) -> Result<WorkerHandle, StartError> {
    let (ends, ended) = oneshot::channel::<()>();
    let thread = thread::Builder::new().name(parts.name.clone()).spawn(move || {
        let _ends = ends;
        let (status, threads) = (Arc::clone(&parts.status), parts.threads);
        let _guard = FailsOnPanic { status: &status, desk: Arc::clone(&parts.desk) };
        let serve = || Worker::new(parts).serve();
        match threads {
            Some(threads) => team::with_own_team(threads, serve),
            None => serve(),
        }
    });
    let thread =
        thread.map_err(|error| StartError::Thread { purpose: "device", reason: error.to_string() })?;
    Ok(WorkerHandle { thread, ended })
}

impl WorkerHandle {
    /// Waits for the thread to end, at most for `timeout`; says whether it did.
    pub(crate) async fn join(mut self, timeout: Duration) -> bool {
        // The sender is never used: its end is the thread's.
        let ended = tokio::time::timeout(timeout, &mut self.ended).await.is_ok();
        // A panic of the thread was told by its guard.
        ended && self.thread.join().is_ok()
    }
}

struct Worker {
    desk: Arc<Desk>,
    builder: RunnerBuilder<dyn Runner>,
    warm_up: Option<WarmUpBounds>,
    dimensions: usize,
    turns: Option<DeviceTurns>,
    batches: u64,
    pool: PoolUsage,
    trial: DeviceTrial,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
}

/// A batch that was not computed.
struct FailedBatch {
    rows: Vec<Picked<RequestRow>>,
    reason: String,
    /// Why the runner is of no more use, if it is.
    lost: Option<RunError>,
}

impl Worker {
    fn new(parts: WorkerParts) -> Self {
        let WorkerParts { desk, warm_up, factory, dimensions, turns, status, metrics, .. } = parts;
        let builder = RunnerBuilder::new(factory, Arc::clone(&status), metrics.worker_restarts.clone());
        let (pool, trial) = (PoolUsage::default(), DeviceTrial::default());
        Self { desk, builder, warm_up, dimensions, turns, batches: 0, pool, trial, status, metrics }
    }

    fn serve(mut self) {
        let mut runner = match self.builder.build() {
            Ok(runner) => runner,
            Err(why) => return self.give_up(why),
        };
        // Once: kernels outlive a runner that is lost.
        if let Err(why) = warm_up(runner.as_mut(), self.warm_up, &self.status, &self.metrics) {
            return self.give_up(why);
        }
        while let Some(picked) = self.desk.next_batch() {
            runner = match self.compute(runner, picked) {
                Ok(runner) => runner,
                Err(why) => return self.give_up(why),
            };
        }
        self.desk.close(&EmbedError::ShuttingDown);
    }

    /// Computes a batch, by halves where it fails, and answers for it; gives the runner back, or the one that took its
    /// place.
    fn compute(
        &mut self,
        mut runner: Box<dyn Runner>,
        picked: PickedBatch<RequestRow>,
    ) -> Result<Box<dyn Runner>, RunError> {
        self.metrics.taken(picked.rows.iter().map(|picked| picked.waited));
        let mut parts = Bisection::new(picked.rows);
        while let Some(rows) = parts.next() {
            let Err(FailedBatch { rows, reason, lost }) = self.run(runner.as_mut(), rows) else { continue };
            tracing::error!(rows = rows.len(), %reason, "a batch failed");
            let failure = if lost.is_some() { Failure::OfDevice } else { Failure::OfRows };
            match parts.failed(rows, failure) {
                Verdict::Divided => self.metrics.batch_retries.inc_by(2),
                Verdict::Guilty(rows) => {
                    for picked in rows {
                        picked.row.fail(EmbedError::Internal { reason: reason.clone() });
                    }
                }
            }
            if let Some(lost) = lost {
                self.trial.lost();
                tracing::error!(%lost, "the runner is lost and will be built again");
                runner = self.builder.replace(runner).inspect_err(|why| {
                    let answer = EmbedError::Unavailable { reason: why.to_string() };
                    while let Some(rows) = parts.next() {
                        rows.into_iter().for_each(|picked| picked.row.fail(answer.clone()));
                    }
                })?;
            }
        }
        if self.trial.is_due() {
            try_device(runner.as_mut())?;
        }
        Ok(runner)
    }

    /// Runs rows together and answers them; gives them back when that fails.
    fn run(&mut self, runner: &mut dyn Runner, mut rows: Vec<Picked<RequestRow>>) -> Result<(), FailedBatch> {
        // Clients may have left since the rows were picked.
        rows.retain(|picked| !picked.row.is_cancelled());
        if rows.is_empty() {
            return Ok(());
        }
        rows.iter_mut().for_each(|picked| picked.row.start());
        let batch = Batch { rows: rows.iter().map(|picked| picked.row.row.clone()).collect() };
        self.batches += 1;
        let turn = self.turns.as_ref().map(DeviceTurns::take);
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            let output = runner.run(&batch);
            (output, runner.pool_usage(), runner.device_memory())
        }));
        let took = began.elapsed();
        drop(turn);
        self.metrics.batches.inc();
        self.metrics.compute_seconds.observe(seconds(took));
        let (reason, lost) = match result {
            Ok((Ok(output), usage, memory)) if output.rows.len() == batch.rows.len() => {
                self.metrics.change_pool(std::mem::replace(&mut self.pool, usage), usage);
                self.metrics.set_device_memory(memory);
                self.trial.computed();
                self.settle(rows, output, took);
                return Ok(());
            }
            Ok((Ok(output), ..)) => {
                let (found, expected) = (output.rows.len(), batch.rows.len());
                (format!("the device answered {found} rows of {expected}"), None)
            }
            Ok((Err(error @ RunError::Batch { .. }), ..)) => (error.to_string(), None),
            Ok((Err(error), ..)) => (error.to_string(), Some(error)),
            Err(panic) => {
                let reason = format!("it panicked: {}", panic_message(panic.as_ref()));
                ("the device's worker panicked".to_owned(), Some(RunError::DeviceLost { reason }))
            }
        };
        Err(FailedBatch { rows, reason, lost })
    }

    /// Hands each row its outcome.
    fn settle(&mut self, rows: Vec<Picked<RequestRow>>, output: BatchOutput, took: Duration) {
        // Before the answers: who has one finds himself counted.
        let adapters_placed = self.count_computed(&rows, &output);
        let mut deferred = Vec::new();
        for (index, (picked, outcome)) in rows.into_iter().zip(output.rows).enumerate() {
            if outcome == RowOutcome::Deferred && index > 0 {
                let mut picked = picked;
                picked.row.wait_again();
                deferred.push(picked);
                continue;
            }
            let row = picked.row;
            row.count_batch(self.batches, took);
            match self.judge(&row.row, outcome) {
                Ok(embedding) => row.bring(embedding),
                Err(error) => {
                    tracing::warn!(adapter = ?row.row.adapter.as_ref().map(|a| a.digest), %error, "a row failed");
                    row.fail(error);
                }
            }
        }
        self.metrics.rows_deferred.inc_by(deferred.len() as u64);
        self.desk.commit(Commit { deferred, adapters_placed });
    }

    /// Counts what went through the device and says through how many adapters.
    fn count_computed(&self, rows: &[Picked<RequestRow>], output: &BatchOutput) -> usize {
        let computed = rows.iter().zip(&output.rows).filter_map(|(picked, outcome)| match outcome {
            RowOutcome::Embedding(_) => Some(&picked.row.row),
            RowOutcome::Deferred | RowOutcome::Failed(_) => None,
        });
        let (mut size, mut domains) = (BatchSize::default(), Vec::new());
        for row in computed {
            size.rows += 1;
            size.tokens += row.ids.len();
            domains.push(row.adapter.as_ref().map(|adapter| adapter.digest));
        }
        // Rows of one domain are neighbours.
        domains.dedup();
        size.domains = domains.len();
        self.metrics.computed(size);
        self.metrics.lora_launches.inc_by(output.lora_launches);
        domains.into_iter().flatten().count()
    }

    fn judge(&self, row: &BatchRow, outcome: RowOutcome) -> Result<Vec<f32>, EmbedError> {
        let expected = row.output.values(row.ids.len(), self.dimensions);
        let reason = match outcome {
            RowOutcome::Embedding(values) if values.len() != expected => {
                format!("the embedding has {} values instead of {expected}", values.len())
            }
            RowOutcome::Embedding(values) => match values.iter().position(|value| !value.is_finite()) {
                Some(at) => format!("value {at} of the embedding is {}, not a finite number", values[at]),
                None => return Ok(values),
            },
            RowOutcome::Failed(error) => return Err(error),
            RowOutcome::Deferred => {
                "the device has no place for the adapter although nothing is in its way".to_owned()
            }
        };
        Err(EmbedError::Internal { reason })
    }

    fn give_up(self, why: RunError) {
        tracing::error!(%why, "the engine has no device any more");
        let answer = EmbedError::Unavailable { reason: why.to_string() };
        self.status.failed(why.into());
        self.desk.close(&answer);
    }
}

/// Says that there is no device any more when the worker itself panics, and answers who waits for it.
struct FailsOnPanic<'a> {
    status: &'a Status,
    desk: Arc<Desk>,
}

impl Drop for FailsOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let why = RunError::DeviceLost { reason: "its owner thread panicked".to_owned() };
            let answer = EmbedError::Unavailable { reason: why.to_string() };
            self.status.failed(why.into());
            self.desk.close(&answer);
        }
    }
}
