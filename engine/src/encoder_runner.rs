//! The runner for encoders: leases the batch's adapters, builds the packed batch, computes, reads back once.

use std::sync::Arc;

use polylora_adapters::{BaseModel, PoolMonitor};
use polylora_kernels::device::{Preparation, preparation};
use polylora_kernels::device_memory::{self, DeviceMemory};
use polylora_models::EmbeddingModel;

use crate::adapter_places::{AdapterPlaces, LoraRoom, Seat};
use crate::runner::{Batch, BatchOutput, PoolUsage, RowOutcome, RunError, Runner};
use crate::warm_up_adapter::warm_up_adapter;
use crate::warm_up_plan::{WarmUpBounds, WarmUpDepth, WarmUpShape, warm_up_plan};
use crate::{BatchRow, EmbedError, RowOutput};

/// An embedding model on its device, with the device's adapters.
pub struct EncoderRunner {
    model: Arc<EmbeddingModel>,
    places: AdapterPlaces,
}

impl EncoderRunner {
    /// A runner over `model` with `room` for adapters.
    ///
    /// # Errors
    /// When there is not so much memory.
    pub fn new(model: Arc<EmbeddingModel>, room: LoraRoom) -> Result<Self, RunError> {
        let places = AdapterPlaces::new(model.device(), model.dtype(), room)?;
        Ok(Self { model, places })
    }

    /// A view of the adapters on the device for other threads.
    pub fn pool_monitor(&self) -> PoolMonitor {
        self.places.monitor()
    }
}

impl Runner for EncoderRunner {
    fn run(&mut self, batch: &Batch) -> Result<BatchOutput, RunError> {
        let mut seating = self.places.seating();
        let seats: Vec<Seat> = batch.rows.iter().map(|row| seating.seat(row.adapter.as_ref())).collect();
        let present = batch.rows.iter().zip(&seats).filter_map(|(row, seat)| match seat {
            Seat::At(adapter) => Some((row, *adapter)),
            Seat::Deferred | Seat::Failed(_) => None,
        });
        let (rows, (outputs, segments)): (Vec<&[u32]>, (Vec<_>, Vec<_>)) =
            present.map(|(row, adapter)| (&*row.ids, (row.output, (row.ids.len(), adapter)))).unzip();
        let lora = seating.lora(segments);
        let embeddings = if rows.is_empty() {
            vec![]
        } else {
            let embedded = self.model.compute(&rows, &outputs, &lora);
            embedded.map_err(|e| RunError::Batch { reason: e.to_string() })?
        };
        let mut embeddings = embeddings.into_iter();
        let rows = seats.into_iter().map(|seat| match seat {
            Seat::At(_) => RowOutcome::Embedding(embeddings.next().expect("one embedding a row")),
            Seat::Deferred => RowOutcome::Deferred,
            Seat::Failed(error) => RowOutcome::Failed(error),
        });
        // The leases end here: the embeddings were read back, so the device is done with the adapters.
        let rows = rows.collect();
        drop(seating);
        Ok(BatchOutput { rows, lora_launches: lora.launches() })
    }

    fn pool_usage(&self) -> PoolUsage {
        self.places.usage()
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
            self.places.evict(&adapter.digest);
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
