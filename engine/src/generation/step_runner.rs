//! One step on the device: adapters find their places, blocks are copied, rows computed, logits read back once.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use polylora_adapters::{LoadedAdapter, PoolMonitor};
use polylora_generation::{AdapterKey, StepBatch, StepRow};
use polylora_models::{KvCache, LanguageModel, PagedRow, WantedLogits};

use crate::adapter_places::{AdapterPlaces, LoraRoom, Seat};
use crate::runner::RunError;
use crate::{EmbedError, GenerateError};

/// The adapters that sequences go through, by their digests.
pub type StepAdapters = HashMap<AdapterKey, LoadedAdapter>;

/// What became of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum StepRowOutcome {
    /// It was computed.
    Computed {
        /// Its logits, for [`StepOutput::logits_at`]: one for each of its targets, then the last position's where
        /// somebody draws from them.
        logits: Range<usize>,
    },
    /// Its adapter found no place beside those of the rows before it.
    Deferred,
    /// It cannot be computed, the others can.
    Failed(GenerateError),
}

/// What a step gave.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutput {
    /// One outcome a row.
    pub rows: Vec<StepRowOutcome>,
    /// The logits that rows want, one after the other, `[wanted, vocabulary]` f32.
    pub logits: Vec<f32>,
    /// Logits of a row.
    pub vocab_size: usize,
    /// Linear layers that ran with an adapter's part.
    pub lora_launches: u64,
}

impl StepOutput {
    /// How many logits there are.
    pub fn logits_count(&self) -> usize {
        self.logits.len() / self.vocab_size.max(1)
    }

    /// The logits with that index, `[vocabulary]`.
    pub fn logits_at(&mut self, index: usize) -> &mut [f32] {
        &mut self.logits[index * self.vocab_size..][..self.vocab_size]
    }
}

/// A language model on its device. Built, used and dropped on the owner thread.
pub trait StepRunner: Send {
    /// Computes a step.
    ///
    /// # Errors
    /// When none of its rows could be computed.
    fn run(&mut self, step: &StepBatch, adapters: &StepAdapters) -> Result<StepOutput, RunError>;
}

/// The runner of a language model.
pub struct CausalRunner {
    model: Arc<LanguageModel>,
    cache: KvCache,
    places: AdapterPlaces,
}

impl CausalRunner {
    /// A runner over `model` with a KV cache of `blocks` blocks of `block_size` tokens and `room` for adapters.
    ///
    /// # Errors
    /// When there is not so much memory.
    pub fn new(
        model: Arc<LanguageModel>,
        (blocks, block_size): (usize, usize),
        room: LoraRoom,
    ) -> Result<Self, RunError> {
        let cache = model.new_cache(blocks, block_size);
        let cache = cache.map_err(|error| RunError::Start { reason: error.to_string() })?;
        let places = AdapterPlaces::new(model.device(), model.dtype(), room)?;
        Ok(Self { model, cache, places })
    }

    /// A view of the adapters on the device for other threads.
    pub fn pool_monitor(&self) -> PoolMonitor {
        self.places.monitor()
    }
}

impl StepRunner for CausalRunner {
    fn run(&mut self, step: &StepBatch, adapters: &StepAdapters) -> Result<StepOutput, RunError> {
        let copies: Vec<(u32, u32)> = step.copies.iter().map(|copy| (copy.from.0, copy.to.0)).collect();
        if !copies.is_empty() {
            self.cache.copy_blocks(&copies);
        }
        let mut seating = self.places.seating();
        let seats: Vec<Seat> = step
            .rows
            .iter()
            .map(|row| match row.domain.adapter().map(|key| adapters.get(&key)) {
                None => seating.seat(None),
                Some(Some(adapter)) => seating.seat(Some(adapter)),
                Some(None) => Seat::Failed(EmbedError::Internal { reason: "its adapter is gone".to_owned() }),
            })
            .collect();
        let present: Vec<(&StepRow, Option<usize>)> = step
            .rows
            .iter()
            .zip(&seats)
            .filter_map(|(row, seat)| match seat {
                Seat::At(adapter) => Some((row, *adapter)),
                Seat::Deferred | Seat::Failed(_) => None,
            })
            .collect();
        let lora = seating.lora(present.iter().map(|(row, adapter)| (row.tokens.len(), *adapter)));
        let logits = if present.is_empty() {
            vec![]
        } else {
            let blocks: Vec<Vec<u32>> =
                present.iter().map(|(row, _)| row.blocks.iter().map(|block| block.0).collect()).collect();
            let rows: Vec<PagedRow<'_>> = present
                .iter()
                .zip(&blocks)
                .map(|((row, _), blocks)| PagedRow {
                    tokens: &row.tokens,
                    context: row.context,
                    blocks,
                    logits: wanted_logits(row),
                })
                .collect();
            let logits = self.model.forward(&rows, &mut self.cache, &lora);
            let logits = logits.map_err(|error| RunError::Batch { reason: error.to_string() })?;
            let values = logits.into_data().try_into_vec::<f32>();
            values.map_err(|error| RunError::Batch { reason: format!("logits: {error:?}") })?
        };
        // The logits were read back, so the device is done with the adapters.
        drop(seating);
        let mut next = 0;
        let outcome = |(row, seat): (&StepRow, Seat)| match seat {
            Seat::At(_) => {
                let first = next;
                next += row.wanted_logits();
                StepRowOutcome::Computed { logits: first..next }
            }
            Seat::Deferred => StepRowOutcome::Deferred,
            Seat::Failed(error) => StepRowOutcome::Failed(error.into()),
        };
        let rows = step.rows.iter().zip(seats).map(outcome).collect();
        let vocab_size = self.model.vocab_size();
        Ok(StepOutput { rows, logits, vocab_size, lora_launches: lora.launches() })
    }
}

fn wanted_logits(row: &StepRow) -> WantedLogits {
    match (row.targets.is_empty(), row.draws.is_empty()) {
        (true, true) => WantedLogits::Nothing,
        (true, false) => WantedLogits::Last,
        // Every position but a prompt's last has a target, and that one is drawn from.
        (false, _) => WantedLogits::All,
    }
}
