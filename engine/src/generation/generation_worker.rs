//! The thread that owns a language model's device: step by step, with tokens drawn in between.

mod settle;

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use polylora_generation::{
    AdapterKey, DrawScratch, GenerationScheduler, LogitsError, Refusal, SchedulerLimits, SequenceId,
    StepBatch, StepOutcome, TokenText,
};
use tokio::sync::{mpsc, oneshot};

use super::generation_metrics::GenerationMetrics;
use super::live_request::{GenerationJob, LiveRequest};
use super::step_runner::{StepAdapters, StepOutput, StepRunner};
use super::step_trial::try_step;
use super::step_warm_up::warm_up;
use crate::device_trial::DeviceTrial;
use crate::device_turns::DeviceTurns;
use crate::runner::RunError;
use crate::runner_builder::{RunnerBuilder, panic_message};
use crate::status::Status;
use crate::{GenerateError, StartError};

/// Builds the runner, on the owner thread; called again after a panic.
pub type StepRunnerFactory = Box<dyn FnMut() -> Result<Box<dyn StepRunner>, RunError> + Send>;

/// What a worker is made of.
pub(crate) struct GenerationWorkerParts {
    /// Where requests come from; the worker ends when all senders are gone.
    pub(crate) inbox: mpsc::Receiver<GenerationJob>,
    /// Bounds of the scheduler.
    pub(crate) limits: SchedulerLimits,
    /// Builds the runner.
    pub(crate) factory: StepRunnerFactory,
    /// Makes text of tokens.
    pub(crate) door: Arc<dyn TokenText + Send + Sync>,
    /// Whether the device computes a first step before it is ready.
    pub(crate) warms_up: bool,
    /// Whose turn it is, where others compute on the device too.
    pub(crate) turns: Option<DeviceTurns>,
    /// Shared with the engine's front.
    pub(crate) status: Arc<Status>,
    /// Where it counts.
    pub(crate) metrics: Arc<GenerationMetrics>,
}

/// Starts the owner thread; what is given ends with it.
pub(crate) fn spawn(parts: GenerationWorkerParts) -> Result<oneshot::Receiver<()>, StartError> {
    let (ends, ended) = oneshot::channel::<()>();
    let serve = move || {
        let _ends = ends;
        Worker::new(parts).serve();
    };
    let started = thread::Builder::new().name("generation".to_owned()).spawn(serve);
    let failed = |error: std::io::Error| StartError::Thread { purpose: "device", reason: error.to_string() };
    started.map(|_| ended).map_err(failed)
}

struct Worker {
    inbox: mpsc::Receiver<GenerationJob>,
    builder: RunnerBuilder<dyn StepRunner>,
    trial: DeviceTrial,
    door: Arc<dyn TokenText + Send + Sync>,
    warms_up: bool,
    turns: Option<DeviceTurns>,
    status: Arc<Status>,
    metrics: Arc<GenerationMetrics>,
    scheduler: GenerationScheduler,
    /// By the first of its sequences.
    requests: HashMap<SequenceId, LiveRequest>,
    /// Which request a sequence is of, and which of its copies.
    owners: HashMap<SequenceId, (SequenceId, usize)>,
    /// Requests that no step has begun.
    unbegun: HashSet<SequenceId>,
    next_id: u64,
    scratch: DrawScratch,
}

impl Worker {
    fn new(parts: GenerationWorkerParts) -> Self {
        let GenerationWorkerParts { inbox, limits, factory, door, warms_up, turns, status, metrics } = parts;
        Self {
            inbox,
            builder: RunnerBuilder::new(factory, Arc::clone(&status), metrics.worker_restarts.clone()),
            trial: DeviceTrial::default(),
            door,
            warms_up,
            turns,
            status,
            metrics,
            scheduler: GenerationScheduler::new(limits),
            requests: HashMap::new(),
            owners: HashMap::new(),
            unbegun: HashSet::new(),
            next_id: 0,
            scratch: DrawScratch::default(),
        }
    }

    fn serve(mut self) {
        match catch_unwind(AssertUnwindSafe(|| self.work())) {
            Ok(Ok(())) => self.fail_all(&GenerateError::ShuttingDown),
            Ok(Err(why)) => self.give_up(&why),
            // The runner went with the panic.
            Err(panic) => {
                let reason = format!("its owner thread panicked: {}", panic_message(panic.as_ref()));
                self.give_up(&RunError::DeviceLost { reason });
            }
        }
    }

    /// Serves until there is nobody left to be served.
    fn work(&mut self) -> Result<(), RunError> {
        let mut runner = self.set_up()?;
        self.status.probe_succeeded();
        while self.receive() {
            self.drop_abandoned();
            if let Some(step) = self.scheduler.next_batch() {
                runner = self.compute(runner, &step)?;
            }
            self.metrics.scheduled(&self.scheduler.stats());
        }
        Ok(())
    }

    fn set_up(&mut self) -> Result<Box<dyn StepRunner>, RunError> {
        let _turn = self.turns.as_ref().map(DeviceTurns::take);
        let mut runner = self.builder.build()?;
        if self.warms_up {
            let began = Instant::now();
            warm_up(runner.as_mut(), self.scheduler.limits())?;
            tracing::info!(seconds = began.elapsed().as_secs_f32(), "the language model is warm");
        }
        Ok(runner)
    }

    /// Computes a step and answers for it; gives the runner back, or the one that took its place.
    fn compute(
        &mut self,
        mut runner: Box<dyn StepRunner>,
        step: &StepBatch,
    ) -> Result<Box<dyn StepRunner>, RunError> {
        match self.run(runner.as_mut(), step) {
            Ok(output) => {
                self.trial.computed();
                self.settle(step, output);
            }
            Err(RunError::Batch { reason }) => {
                self.fail_step(step, &reason);
                self.scheduler.commit(StepOutcome::default());
            }
            Err(lost) => {
                tracing::error!(%lost, "the language model's runner is lost and will be built again");
                self.trial.lost();
                self.fail_step(step, &lost.to_string());
                // Whoever was not in the step is computed again: what the blocks held is lost with the runner.
                self.scheduler.forget_blocks();
                let _turn = self.turns.as_ref().map(DeviceTurns::take);
                runner = self.builder.replace(runner)?;
            }
        }
        if self.trial.is_due() {
            let _turn = self.turns.as_ref().map(DeviceTurns::take);
            try_step(runner.as_mut())?;
        }
        Ok(runner)
    }

    /// Takes in what has come, and waits for it when there is nothing to do; says whether to go on.
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
        while let Ok(job) = self.inbox.try_recv() {
            self.accept(job);
        }
        !self.status.is_aborted()
    }

    fn accept(&mut self, mut job: GenerationJob) {
        let first = SequenceId(self.next_id);
        let copies = job.sequence.copies.get();
        self.next_id += copies as u64;
        job.sequence.id = first;
        let (request, sequence) = LiveRequest::new(job);
        match self.scheduler.enqueue(sequence) {
            Ok(()) => {
                self.owners.extend((0..copies).map(|index| (first.sibling(index), (first, index))));
                self.unbegun.insert(first);
                self.requests.insert(first, request);
            }
            Err(refusal) => request.fail(refused(refusal)),
        }
    }

    /// Lets go of those nobody waits for: their blocks are free before the next step is planned.
    fn drop_abandoned(&mut self) {
        let abandoned = self.requests.iter().filter(|(_, request)| request.is_abandoned());
        let abandoned: Vec<SequenceId> = abandoned.map(|(first, _)| *first).collect();
        for first in abandoned {
            let Some(request) = self.remove(first) else { continue };
            (0..request.open_copies()).for_each(|_| self.metrics.ended("abort"));
        }
    }

    fn run(&mut self, runner: &mut dyn StepRunner, step: &StepBatch) -> Result<StepOutput, RunError> {
        let mut adapters = StepAdapters::new();
        for row in &step.rows {
            if let (Some(key), Some((first, _))) = (row.domain.adapter(), self.owners.get(&row.sequence))
                && let Some(adapter) = self.requests.get(first).and_then(LiveRequest::adapter)
            {
                adapters.entry(key).or_insert_with(|| adapter.clone());
            }
            let Some((first, _)) = self.owners.get(&row.sequence) else { continue };
            if self.unbegun.remove(first)
                && let Some(request) = self.requests.get_mut(first)
            {
                self.metrics.left_the_queue(request.begins());
            }
        }
        let turn = self.turns.as_ref().map(DeviceTurns::take);
        let began = Instant::now();
        let output = catch_unwind(AssertUnwindSafe(|| runner.run(step, &adapters)));
        let took = began.elapsed();
        drop(turn);
        let output = output.unwrap_or_else(|panic| {
            let reason = format!("it panicked: {}", panic_message(panic.as_ref()));
            Err(RunError::DeviceLost { reason })
        })?;
        if output.rows.len() != step.rows.len() {
            let (found, expected) = (output.rows.len(), step.rows.len());
            return Err(RunError::Batch {
                reason: format!("the device answered {found} rows of {expected}"),
            });
        }
        let tokens = step.rows.iter().map(|row| row.tokens.len()).sum();
        self.metrics.stepped(tokens, took, output.lora_launches);
        Ok(output)
    }

    /// Takes a request out of everything.
    fn remove(&mut self, first: SequenceId) -> Option<LiveRequest> {
        let request = self.requests.remove(&first)?;
        self.unbegun.remove(&first);
        for id in request.sequences(first) {
            self.scheduler.abort(id);
            self.owners.remove(&id);
        }
        Some(request)
    }

    /// Fails the requests that have rows in a step.
    fn fail_step(&mut self, step: &StepBatch, reason: &str) {
        tracing::error!(rows = step.rows.len(), reason, "a step failed");
        for row in &step.rows {
            self.fail_owner(row.sequence, GenerateError::Internal { reason: reason.to_owned() });
        }
    }

    /// Fails the request of a sequence whose logits give no distribution. Its keys and values may be what is wrong, so no retry
    /// shall find them.
    fn fail_without_distribution(&mut self, id: SequenceId, error: &LogitsError) {
        if let Some((first, _)) = self.owners.get(&id)
            && let Some(request) = self.requests.get(first)
        {
            request.sequences(*first).for_each(|id| self.scheduler.forget_prefix(id));
        }
        let reason = format!("the model's logits give no distribution: {error}");
        self.fail_owner(id, GenerateError::Internal { reason });
    }

    /// Fails the request of a sequence.
    fn fail_owner(&mut self, id: SequenceId, error: GenerateError) {
        let Some((first, _)) = self.owners.get(&id).copied() else { return };
        tracing::warn!(%error, "a text is not generated");
        self.fail(first, error);
    }

    fn fail_all(&mut self, error: &GenerateError) {
        let all: Vec<SequenceId> = self.requests.keys().copied().collect();
        for first in all {
            self.fail(first, error.clone());
        }
    }

    fn fail(&mut self, first: SequenceId, error: GenerateError) {
        let Some(request) = self.remove(first) else { return };
        if request.has_started() {
            // Others are counted where they wait for their start.
            self.metrics.failed(error.code());
        }
        self.metrics.scheduled(&self.scheduler.stats());
        request.fail(error);
    }

    fn give_up(mut self, why: &RunError) {
        tracing::error!(%why, "the language model has no device any more");
        self.status.failed(why.clone().into());
        let error = GenerateError::Unavailable { reason: why.to_string() };
        self.fail_all(&error);
        self.inbox.close();
        while let Some(job) = self.inbox.blocking_recv() {
            job.fail(error.clone());
        }
    }
}

/// A pause that [`super::GenerationEngine`] grants the step that is under way when it is to end.
pub(crate) const ABORT_GRACE: Duration = Duration::from_secs(5);

fn refused(refusal: Refusal) -> GenerateError {
    match refusal {
        Refusal::EmptyPrompt => GenerateError::EmptyPrompt,
        Refusal::ExceedsContext { prompt, max_context } => {
            GenerateError::TooLong { prompt, max_tokens: 1, context: max_context }
        }
        Refusal::ExceedsCache { prompt, capacity, .. } => {
            GenerateError::TooLong { prompt, max_tokens: 1, context: capacity }
        }
        Refusal::TooManyCopies { copies, max_running } => {
            GenerateError::TooManyCopies { found: copies, max: max_running }
        }
        Refusal::QueueFull { max_waiting, .. } => GenerateError::Overloaded { limit: max_waiting },
    }
}

/// The key that the scheduler knows an adapter by.
pub(crate) fn adapter_key(adapter: &polylora_adapters::LoadedAdapter) -> AdapterKey {
    AdapterKey(adapter.digest.0)
}

#[cfg(test)]
mod tests;
