//! The thread that owns a device: takes jobs in, runs batches, answers, and gets up again after a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::batch_policy::BatchLimits;
use crate::metrics::{Metrics, seconds};
use crate::row_gather::{EmbedJob, RequestRow, RowGather};
use crate::runner::{Batch, BatchOutput, BatchRow, RowOutcome, RunError, Runner, RunnerFactory};
use crate::runner_builder::{RunnerBuilder, panic_message};
use crate::scheduler::{Commit, Picked, PickedBatch, Scheduler};
use crate::status::Status;
use crate::warm_up::warm_up;
use crate::warm_up_plan::WarmUpBounds;
use crate::{EmbedError, StartError};

/// What a worker is made of.
pub(crate) struct WorkerParts {
    /// Jobs; the worker ends when all senders are gone and all rows are answered.
    pub(crate) inbox: mpsc::Receiver<EmbedJob>,
    /// Bounds of its scheduler.
    pub(crate) limits: BatchLimits,
    /// What to warm up; `None` is nothing.
    pub(crate) warm_up: Option<WarmUpBounds>,
    /// Builds its runner.
    pub(crate) factory: RunnerFactory,
    /// Width of an embedding.
    pub(crate) dimensions: usize,
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
    let thread = thread::Builder::new().name("device".to_owned()).spawn(move || {
        let _ends = ends;
        let status = Arc::clone(&parts.status);
        let _guard = FailsOnPanic(&status);
        Worker::new(parts).serve();
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
    inbox: mpsc::Receiver<EmbedJob>,
    scheduler: Scheduler<RequestRow>,
    builder: RunnerBuilder,
    warm_up: Option<WarmUpBounds>,
    dimensions: usize,
    batches: u64,
    waiting: usize,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
}

impl Worker {
    fn new(parts: WorkerParts) -> Self {
        let WorkerParts { inbox, limits, warm_up, factory, dimensions, status, metrics } = parts;
        let builder = RunnerBuilder::new(factory, Arc::clone(&status), Arc::clone(&metrics));
        Self {
            inbox,
            scheduler: Scheduler::new(limits),
            builder,
            warm_up,
            dimensions,
            batches: 0,
            waiting: 0,
            status,
            metrics,
        }
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
        while self.receive() {
            let picked = self.scheduler.next_batch(Instant::now());
            self.count_waiting();
            let Some(picked) = picked else { continue };
            if let Err(lost) = self.step(runner.as_mut(), picked) {
                tracing::error!(%lost, "the runner is lost and will be built again");
                runner = match self.builder.replace(runner) {
                    Ok(runner) => runner,
                    Err(why) => return self.give_up(why),
                };
            }
        }
        self.refuse_all(&EmbedError::ShuttingDown);
    }

    /// Takes in what has come, waiting only when no row waits; `false` when the worker shall end.
    fn receive(&mut self) -> bool {
        if self.status.is_aborted() {
            return false;
        }
        if self.scheduler.is_empty() {
            match self.inbox.blocking_recv() {
                Some(job) => self.accept(job),
                None => return false,
            }
        }
        for _ in 0..self.inbox.max_capacity() {
            match self.inbox.try_recv() {
                Ok(job) => self.accept(job),
                Err(_) => break,
            }
        }
        if self.status.abandoned.swap(false, Ordering::AcqRel) {
            self.scheduler.drop_cancelled();
        }
        self.count_waiting();
        !self.status.is_aborted()
    }

    fn accept(&mut self, job: EmbedJob) {
        let submitted = job.submitted;
        // Counted by the sender already.
        self.waiting += job.rows.len();
        for row in RowGather::split(job) {
            let Err(row) = self.scheduler.enqueue(row, submitted) else { continue };
            // Admission bounds the rows of those who wait; what is above are rows of those who left.
            self.scheduler.drop_cancelled();
            if let Err(row) = self.scheduler.enqueue(row, submitted) {
                row.fail(EmbedError::QueueFull { limit: self.scheduler.len() });
            }
        }
    }

    /// Runs one batch and answers for it; an error means that the runner is lost.
    fn step(&mut self, runner: &mut dyn Runner, picked: PickedBatch<RequestRow>) -> Result<(), RunError> {
        let batch = Batch { rows: picked.rows.iter().map(|picked| picked.row.row.clone()).collect() };
        for row in &picked.rows {
            self.metrics.queue_seconds.observe(seconds(row.waited));
        }
        self.batches += 1;
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            let output = runner.run(&batch);
            (output, runner.pool_usage(), runner.device_memory())
        }));
        let took = began.elapsed();
        self.metrics.batches.inc();
        self.metrics.compute_seconds.observe(seconds(took));
        let (told, lost) = match result {
            Ok((Ok(output), usage, memory)) if output.rows.len() == batch.rows.len() => {
                self.metrics.set_pool(usage);
                self.metrics.set_device_memory(memory);
                self.settle(picked.rows, output, took);
                return Ok(());
            }
            Ok((Ok(output), ..)) => {
                let (found, expected) = (output.rows.len(), batch.rows.len());
                let reason = format!("the device answered {found} rows of {expected}");
                (reason, None)
            }
            Ok((Err(error @ RunError::Batch { .. }), ..)) => (error.to_string(), None),
            Ok((Err(error), ..)) => (error.to_string(), Some(error)),
            Err(panic) => {
                let reason = format!("it panicked: {}", panic_message(panic.as_ref()));
                ("the device's worker panicked".to_owned(), Some(RunError::DeviceLost { reason }))
            }
        };
        tracing::error!(rows = batch.rows.len(), tokens = batch.tokens(), reason = %told, "a batch failed");
        for row in picked.rows {
            row.row.fail(EmbedError::Internal { reason: told.clone() });
        }
        self.scheduler.commit(Commit { deferred: Vec::new(), adapters_placed: 0 });
        lost.map_or(Ok(()), Err)
    }

    /// Hands each row its outcome.
    fn settle(&mut self, rows: Vec<Picked<RequestRow>>, output: BatchOutput, took: Duration) {
        // Before the answers: who has one finds himself counted.
        let adapters_placed = self.count_computed(&rows, &output);
        let mut deferred = Vec::new();
        for (index, (picked, outcome)) in rows.into_iter().zip(output.rows).enumerate() {
            if outcome == RowOutcome::Deferred && index > 0 {
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
        self.scheduler.commit(Commit { deferred, adapters_placed });
    }

    /// Counts what went through the device and says through how many adapters.
    fn count_computed(&self, rows: &[Picked<RequestRow>], output: &BatchOutput) -> usize {
        let computed = rows.iter().zip(&output.rows).filter_map(|(picked, outcome)| match outcome {
            RowOutcome::Embedding(_) => Some(&picked.row.row),
            RowOutcome::Deferred | RowOutcome::Failed(_) => None,
        });
        let (mut rows, mut tokens, mut adapters) = (0u64, 0u64, Vec::new());
        for row in computed {
            rows += 1;
            tokens += row.ids.len() as u64;
            adapters.extend(row.adapter.as_ref().map(|adapter| adapter.digest));
        }
        self.metrics.rows.inc_by(rows);
        self.metrics.tokens.inc_by(tokens);
        self.metrics.batch_rows.observe(rows as f64);
        self.metrics.batch_tokens.observe(tokens as f64);
        self.metrics.lora_launches.inc_by(output.lora_launches);
        // Rows of one adapter are neighbours.
        adapters.dedup();
        adapters.len()
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

    fn give_up(mut self, why: RunError) {
        tracing::error!(%why, "the engine has no device any more");
        let answer = EmbedError::Internal { reason: why.to_string() };
        self.status.failed(why.into());
        self.refuse_all(&answer);
    }

    /// Answers all that wait or still come with `error`, until all senders are gone or know.
    fn refuse_all(&mut self, error: &EmbedError) {
        self.inbox.close();
        for row in self.scheduler.drain() {
            row.fail(error.clone());
        }
        self.count_waiting();
        while let Some(job) = self.inbox.blocking_recv() {
            self.metrics.rows_leave(job.rows.len());
            // A client that has left is not owed anything.
            let _ = job.reply.send(Err(error.clone()));
        }
    }

    /// Brings the count of waiting rows up to date with the scheduler.
    fn count_waiting(&mut self) {
        let now = self.scheduler.len();
        self.metrics.rows_wait(now.saturating_sub(self.waiting));
        self.metrics.rows_leave(self.waiting.saturating_sub(now));
        self.waiting = now;
    }
}

/// Says that there is no device any more when the worker itself panics.
struct FailsOnPanic<'a>(&'a Status);

impl Drop for FailsOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed(RunError::DeviceLost { reason: "its owner thread panicked".to_owned() }.into());
        }
    }
}
