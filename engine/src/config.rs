//! The engine's bounds, and why an engine does not start.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::mode::Mode;
use crate::runner::RunError;
use crate::{BatchLimits, EmbedError};

/// The engine's bounds and its way of serving. Every bound is at least 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Requests in flight; others are refused at once.
    pub max_concurrent_requests: usize,
    /// Inputs in one request. 2048 as OpenAI's API allows; text-embeddings-inference allows 32 by default.
    pub max_client_batch_size: usize,
    /// Characters (Unicode scalar values) in one text; longer ones are refused before they are tokenised.
    pub max_input_chars: usize,
    /// Inputs in flight over all requests, from admission to reply; others are refused at once.
    pub max_in_flight_rows: usize,
    /// Tokens in one batch; a longer row goes alone.
    pub max_batch_tokens: usize,
    /// Rows in one batch.
    pub max_batch_rows: usize,
    /// Threads that tokenise.
    pub tokenize_threads: usize,
    /// How rows become batches.
    pub mode: Mode,
    /// How often the next batch is made ready while one runs; zero leaves it to the moment the device comes for it.
    pub tick: Duration,
    /// Bytes of embeddings that are kept for rows that come again; 0 keeps none.
    pub embedding_cache_bytes: u64,
    /// What a request gets whose adapter cannot be loaded.
    pub on_adapter_error: OnAdapterError,
    /// Whether the device computes what is to come once before the engine is ready.
    pub warm_up: bool,
}

/// What a request gets whose adapter is there and cannot be loaded. For one that does not exist it is always an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnAdapterError {
    /// The reason, as an error.
    #[default]
    Error,
    /// What the base model makes of it, and the reason beside it.
    Base,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_concurrent_requests: 512,
            max_client_batch_size: 2048,
            max_input_chars: 200_000,
            max_in_flight_rows: 65_536,
            max_batch_tokens: 16_384,
            max_batch_rows: 2048,
            tokenize_threads: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            mode: Mode::default(),
            tick: Duration::from_millis(10),
            embedding_cache_bytes: 0,
            on_adapter_error: OnAdapterError::default(),
            warm_up: true,
        }
    }
}

impl EngineConfig {
    /// Checks the bounds and gives those of the scheduler.
    pub(crate) fn check(&self) -> Result<BatchLimits, StartError> {
        let bound = |field, found, max| match NonZeroUsize::new(found) {
            Some(value) if found <= max => Ok(value),
            _ => Err(StartError::Config { field, found, min: 1, max }),
        };
        // Semaphores count permits in 32 bits when many are taken at once.
        let most = u32::MAX as usize;
        let rows = bound("max_in_flight_rows", self.max_in_flight_rows, most)?;
        bound("max_concurrent_requests", self.max_concurrent_requests, most)?;
        bound("max_client_batch_size", self.max_client_batch_size, self.max_in_flight_rows)?;
        bound("max_input_chars", self.max_input_chars, usize::MAX)?;
        bound("tokenize_threads", self.tokenize_threads, MAX_TOKENIZE_THREADS)?;
        Ok(BatchLimits {
            max_batch_tokens: bound("max_batch_tokens", self.max_batch_tokens, usize::MAX)?,
            max_batch_rows: match self.mode.is_one_by_one() {
                true => NonZeroUsize::MIN,
                false => bound("max_batch_rows", self.max_batch_rows, usize::MAX)?,
            },
            batching: self.mode.batching(),
            // One more than clients may bring: the probe passes by admission.
            max_waiting_rows: rows.saturating_add(1),
        })
    }
}

/// More threads than this tokenise nothing faster and cost memory each.
const MAX_TOKENIZE_THREADS: usize = 1024;

/// Why an engine does not start, or died so that it cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A bound is out of range, or there is no runner.
    #[error("{field} is {found}, it must be from {min} to {max}")]
    Config {
        /// Field of [`EngineConfig`] or [`EngineParts`](crate::EngineParts).
        field: &'static str,
        /// Its value.
        found: usize,
        /// Least allowed.
        min: usize,
        /// Most allowed.
        max: usize,
    },
    /// The engine was started outside a tokio runtime.
    #[error("the engine must be started inside a tokio runtime: adapters load on its blocking threads")]
    NoRuntime,
    /// A thread could not be started.
    #[error("the {purpose} threads could not be started: {reason}")]
    Thread {
        /// What they are for.
        purpose: &'static str,
        /// The operating system's words.
        reason: String,
    },
    /// The device could not be set up.
    #[error(transparent)]
    Runner(#[from] RunError),
    /// The device was set up, but a first request came back with an error.
    #[error("the first request through the device failed: {0}")]
    Probe(EmbedError),
    /// The engine was stopped before it was ready.
    #[error("the engine was stopped before it was ready")]
    Stopped,
}
