//! The runner for encoders: leases the batch's adapters, builds the packed batch, computes, reads back once.

use std::num::NonZeroUsize;
use std::sync::Arc;

use polylora_adapters::{
    BaseModel, DevicePool, Digest, ExtentSink, Lease, PoolError, PoolMode, PoolMonitor, StoreError,
};
use polylora_kernels::device::{Preparation, is_cpu, preparation};
use polylora_kernels::device_memory::{self, DeviceMemory};
use polylora_kernels::extent::HostExtent;
use polylora_kernels::{AdapterMemory, LoraBatch, PlacedAdapter, largest_buffer, segments_of};
use polylora_models::EmbeddingModel;

use crate::runner::{Batch, BatchOutput, PoolUsage, RowOutcome, RunError, Runner};
use crate::warm_up_adapter::warm_up_adapter;
use crate::warm_up_plan::{WarmUpBounds, WarmUpDepth, WarmUpShape, warm_up_plan};
use crate::{BatchRow, EmbedError, RowOutput};

/// The room for adapters on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoraRoom {
    /// Their bytes.
    pub bytes: usize,
    /// How many at once; `None` is as many as there are bytes for.
    pub adapters: Option<NonZeroUsize>,
}

/// An embedding model on its device, with the device's adapters.
pub struct EncoderRunner {
    model: Arc<EmbeddingModel>,
    pool: DevicePool,
    memory: AdapterMemory,
}

impl EncoderRunner {
    /// A runner over `model` with `room` for adapters.
    ///
    /// On the CPU in f32 the kernels read adapters where the host cache put them and nothing is allocated; elsewhere
    /// the arena is allocated here, and is no larger than one buffer of the device.
    ///
    /// # Errors
    /// When there is not so much memory.
    pub fn new(model: Arc<EmbeddingModel>, room: LoraRoom) -> Result<Self, RunError> {
        let (device, dtype) = (model.device(), model.dtype());
        // The pool counts in f32 elements whatever the arena's dtype.
        let asked = room.bytes / size_of::<f32>();
        let capacity =
            if is_cpu(device) { asked } else { asked.min(largest_buffer(device, dtype) / dtype.size()) };
        let lora_bytes = capacity * size_of::<f32>();
        if capacity < asked {
            tracing::warn!(
                bytes = lora_bytes,
                "adapters get less of the device's memory than --lora-memory says: its largest buffer"
            );
        }
        let memory = AdapterMemory::new(device, dtype, capacity);
        let memory = memory.map_err(|e| RunError::Start { reason: e.to_string() })?;
        let mode = match memory {
            AdapterMemory::HostAlias => PoolMode::Alias,
            AdapterMemory::Arena(_) => PoolMode::Copy,
        };
        Ok(Self { model, pool: DevicePool::with_most(lora_bytes, room.adapters, mode), memory })
    }

    /// A view of the adapters on the device for other threads.
    pub fn pool_monitor(&self) -> PoolMonitor {
        self.pool.monitor()
    }
}

impl Runner for EncoderRunner {
    fn run(&mut self, batch: &Batch) -> Result<BatchOutput, RunError> {
        let mut placement = Placement::default();
        let seats: Vec<Seat> =
            batch.rows.iter().map(|row| placement.seat(row, &mut self.pool, &mut self.memory)).collect();
        let present = batch.rows.iter().zip(&seats).filter_map(|(row, seat)| match seat {
            Seat::At(adapter) => Some((row, *adapter)),
            Seat::Not(_) => None,
        });
        let (rows, (outputs, segments)): (Vec<&[u32]>, (Vec<_>, Vec<_>)) =
            present.map(|(row, adapter)| (&*row.ids, (row.output, (row.ids.len(), adapter)))).unzip();
        let lora = LoraBatch::new(segments_of(segments), placement.placed, self.memory.clone());
        let embeddings = if rows.is_empty() {
            vec![]
        } else {
            let embedded = self.model.compute(&rows, &outputs, &lora);
            embedded.map_err(|e| RunError::Batch { reason: e.to_string() })?
        };
        let mut embeddings = embeddings.into_iter();
        let rows = seats.into_iter().map(|seat| match seat {
            Seat::At(_) => RowOutcome::Embedding(embeddings.next().expect("one embedding a row")),
            Seat::Not(outcome) => outcome,
        });
        // The leases end here: the embeddings were read back, so the device is done with the adapters.
        let rows = rows.collect();
        drop(placement.leases);
        Ok(BatchOutput { rows, lora_launches: lora.launches() })
    }

    fn pool_usage(&self) -> PoolUsage {
        let stats = self.pool.stats();
        PoolUsage {
            adapters: stats.resident,
            bytes: stats.resident_bytes,
            leases: stats.leases,
            evictions: stats.evictions,
        }
    }

    fn device_memory(&self) -> Option<DeviceMemory> {
        device_memory::usage(self.model.device())
    }

    fn warm_up_plan(&self, bounds: &WarmUpBounds) -> Vec<WarmUpShape> {
        let depth = match preparation(self.model.device()) {
            Preparation::Nothing => return vec![],
            Preparation::Compiling => WarmUpDepth::Kernels,
            Preparation::CompilingAndTuning => WarmUpDepth::KernelsAndSizes,
        };
        warm_up_plan(*bounds, self.model.max_tokens(), depth)
    }

    fn warm_up(&mut self, shape: &WarmUpShape) -> Result<(), RunError> {
        let adapter = shape.rank.map(|rank| warm_up_adapter(self.model.catalog(), rank));
        let row = |&tokens: &usize| BatchRow {
            ids: vec![0; tokens].into(),
            adapter: adapter.clone(),
            output: RowOutput::default(),
        };
        let output = self.run(&Batch { rows: shape.rows.iter().map(row).collect() })?;
        if let Some(adapter) = &adapter {
            self.pool.evict(&adapter.digest);
        }
        // One outcome stands for all: they share the adapter.
        match output.rows.into_iter().find(|row| !matches!(row, RowOutcome::Embedding(_))) {
            Some(RowOutcome::Failed(EmbedError::AdapterTooLarge { bytes, pool_bytes })) => {
                tracing::debug!(bytes, pool_bytes, "the pool is too small for this adapter");
            }
            Some(RowOutcome::Failed(error)) => return Err(RunError::Batch { reason: error.to_string() }),
            _ => {}
        }
        Ok(())
    }
}

/// Where a row goes.
enum Seat {
    /// Into the batch, through the adapter of that index.
    At(Option<usize>),
    /// Not into this batch.
    Not(RowOutcome),
}

/// The adapters of one batch while they find their places.
#[derive(Default)]
struct Placement {
    leases: Vec<Lease>,
    placed: Vec<PlacedAdapter>,
    refused: Vec<(Digest, RowOutcome)>,
}

impl Placement {
    fn seat(&mut self, row: &BatchRow, pool: &mut DevicePool, memory: &mut AdapterMemory) -> Seat {
        let Some(adapter) = row.adapter.as_ref().filter(|a| !a.extent.layout().is_empty()) else {
            return Seat::At(None);
        };
        if let Some(index) = self.leases.iter().position(|lease| lease.digest() == adapter.digest) {
            return Seat::At(Some(index));
        }
        if let Some((_, outcome)) = self.refused.iter().find(|(digest, _)| *digest == adapter.digest) {
            return Seat::Not(outcome.clone());
        }
        match pool.lease(adapter, &mut ArenaSink(memory)) {
            Ok(lease) => {
                let placed = PlacedAdapter { extent: lease.extent().clone(), offset: lease.offset() };
                self.placed.push(placed);
                self.leases.push(lease);
                Seat::At(Some(self.leases.len() - 1))
            }
            Err(error) => {
                let outcome = match error {
                    PoolError::AllLeased { .. } => RowOutcome::Deferred,
                    PoolError::TooLarge { needed_bytes, budget_bytes, .. } => {
                        RowOutcome::Failed(EmbedError::AdapterTooLarge {
                            bytes: needed_bytes,
                            pool_bytes: budget_bytes,
                        })
                    }
                    PoolError::Store { .. } => {
                        RowOutcome::Failed(EmbedError::Internal { reason: error.to_string() })
                    }
                };
                self.refused.push((adapter.digest, outcome.clone()));
                Seat::Not(outcome)
            }
        }
    }
}

/// Writes extents into the device's memory.
struct ArenaSink<'a>(&'a mut AdapterMemory);

impl ExtentSink for ArenaSink<'_> {
    fn store(&mut self, offset: usize, extent: &Arc<HostExtent>) -> Result<(), StoreError> {
        self.0.store(offset, extent);
        Ok(())
    }
}
