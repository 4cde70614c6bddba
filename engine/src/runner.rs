//! What the worker asks of a device: embeddings for one batch of rows.

use std::sync::Arc;

use polylora_adapters::LoadedAdapter;
use polylora_kernels::device_memory::DeviceMemory;

use crate::warm_up_plan::{WarmUpBounds, WarmUpShape};
use crate::{EmbedError, RowOutput};

/// One row of a batch.
#[derive(Clone, Debug)]
pub struct BatchRow {
    /// Token ids, special tokens included; never empty, every id within the vocabulary.
    pub ids: Arc<[u32]>,
    /// The adapter; `None` is the base model.
    pub adapter: Option<LoadedAdapter>,
    /// What the row becomes.
    pub output: RowOutput,
}

/// Rows to compute together; never empty. Rows with the same adapter digest are neighbours.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The rows, in the order in which their adapters are to be placed.
    pub rows: Vec<BatchRow>,
}

impl Batch {
    /// Tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.ids.len()).sum()
    }
}

/// What became of one row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowOutcome {
    /// What the row asked for, [`RowOutput::values`] of them.
    Embedding(Vec<f32>),
    /// The row's adapter found no place beside those of the rows before it: the row comes again, ahead of younger
    /// ones. The first row of a batch is never deferred: everything else can be evicted for it.
    Deferred,
    /// The row cannot be computed, its batch mates can.
    Failed(EmbedError),
}

/// The result of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchOutput {
    /// One outcome per row, in the order of the rows.
    pub rows: Vec<RowOutcome>,
    /// Linear layers that ran with an adapter's part; 0 when no row has an adapter.
    pub lora_launches: u64,
}

/// What lies in a device's adapter pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Adapters.
    pub adapters: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// Why a batch was not computed, or why there is no runner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The runner could not be built.
    #[error("the device could not be set up: {reason}")]
    Start {
        /// What is known.
        reason: String,
    },
    /// This batch failed; the runner can take the next one.
    #[error("the batch failed: {reason}")]
    Batch {
        /// What is known.
        reason: String,
    },
    /// The runner is of no more use; a new one must be built.
    #[error("the device is lost: {reason}")]
    DeviceLost {
        /// What is known.
        reason: String,
    },
}

/// Weights on a device. Built, used and dropped on the device's owner thread.
pub trait Runner: Send {
    /// Computes one embedding per row. Values that are not finite are caught by the caller.
    ///
    /// # Errors
    /// When no row could be computed; what concerns one row is a [`RowOutcome`].
    fn run(&mut self, batch: &Batch) -> Result<BatchOutput, RunError>;

    /// What lies in the adapter pool now.
    fn pool_usage(&self) -> PoolUsage {
        PoolUsage::default()
    }

    /// What the device's allocator holds now; `None` where it has none of its own.
    fn device_memory(&self) -> Option<DeviceMemory> {
        None
    }

    /// What the device wants to compute before the first request, in this order; nothing by default.
    fn warm_up_plan(&self, bounds: &WarmUpBounds) -> Vec<WarmUpShape> {
        let _ = bounds;
        Vec::new()
    }

    /// Computes a shape of the plan. Nothing of it stays but compiled and tuned kernels.
    ///
    /// # Errors
    /// When it could not be computed: then no request's batch of that shape can.
    fn warm_up(&mut self, shape: &WarmUpShape) -> Result<(), RunError> {
        let _ = shape;
        Ok(())
    }
}

/// Builds the runner, on the owner thread; called again after a panic.
pub type RunnerFactory = Box<dyn FnMut() -> Result<Box<dyn Runner>, RunError> + Send>;
