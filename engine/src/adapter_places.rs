//! The room for adapters on a device, and the places that a batch's adapters find in it.

use std::num::NonZeroUsize;
use std::sync::Arc;

use burn::tensor::{DType, Device};
use polylora_adapters::{
    DevicePool, Digest, ExtentSink, Lease, LoadedAdapter, PoolError, PoolMode, PoolMonitor, StoreError,
};
use polylora_kernels::device::is_cpu;
use polylora_kernels::extent::HostExtent;
use polylora_kernels::{AdapterMemory, LoraBatch, PlacedAdapter, largest_buffer, segments_of};

use crate::EmbedError;
use crate::runner::{PoolUsage, RunError};

/// The room for adapters on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoraRoom {
    /// Their bytes.
    pub bytes: usize,
    /// How many at once; `None` is as many as there are bytes for.
    pub adapters: Option<NonZeroUsize>,
}

/// A device's pool of adapters and the memory behind it.
pub(crate) struct AdapterPlaces {
    pool: DevicePool,
    memory: AdapterMemory,
}

impl AdapterPlaces {
    /// `room` on `device` for adapters of a model that computes in `dtype`.
    ///
    /// On the CPU in f32 the kernels read adapters where the host cache put them and nothing is allocated; elsewhere
    /// the arena is allocated here, and is no larger than one buffer of the device.
    ///
    /// # Errors
    /// When there is not so much memory.
    pub(crate) fn new(device: &Device, dtype: DType, room: LoraRoom) -> Result<Self, RunError> {
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
        Ok(Self { pool: DevicePool::with_most(lora_bytes, room.adapters, mode), memory })
    }

    /// A batch for which nobody has a place yet.
    pub(crate) fn seating(&mut self) -> Seating<'_> {
        Seating { places: self, leases: vec![], placed: vec![], refused: vec![] }
    }

    /// Evicts an adapter unless it is leased.
    pub(crate) fn evict(&mut self, digest: &Digest) {
        self.pool.evict(digest);
    }

    /// A view for other threads.
    pub(crate) fn monitor(&self) -> PoolMonitor {
        self.pool.monitor()
    }

    /// What lies in the pool now.
    pub(crate) fn usage(&self) -> PoolUsage {
        let stats = self.pool.stats();
        PoolUsage {
            adapters: stats.resident,
            bytes: stats.resident_bytes,
            leases: stats.leases,
            evictions: stats.evictions,
        }
    }
}

/// Where a row goes.
#[derive(Clone, Debug)]
pub(crate) enum Seat {
    /// Into the batch, through the adapter of that index.
    At(Option<usize>),
    /// Into a later batch: leases are in the way.
    Deferred,
    /// Into none.
    Failed(EmbedError),
}

/// The adapters of one batch while they find their places; dropped, they are leased no more.
pub(crate) struct Seating<'a> {
    places: &'a mut AdapterPlaces,
    leases: Vec<Lease>,
    placed: Vec<PlacedAdapter>,
    /// What the adapters got that found no place.
    refused: Vec<(Digest, Seat)>,
}

impl Seating<'_> {
    /// Finds a place for a row's adapter; `None` is the base model.
    pub(crate) fn seat(&mut self, adapter: Option<&LoadedAdapter>) -> Seat {
        let Some(adapter) = adapter.filter(|a| !a.extent.layout().is_empty()) else {
            return Seat::At(None);
        };
        if let Some(index) = self.leases.iter().position(|lease| lease.digest() == adapter.digest) {
            return Seat::At(Some(index));
        }
        if let Some((_, seat)) = self.refused.iter().find(|(digest, _)| *digest == adapter.digest) {
            return seat.clone();
        }
        let AdapterPlaces { pool, memory } = &mut *self.places;
        match pool.lease(adapter, &mut ArenaSink(memory)) {
            Ok(lease) => {
                let placed = PlacedAdapter { extent: lease.extent().clone(), offset: lease.offset() };
                self.placed.push(placed);
                self.leases.push(lease);
                Seat::At(Some(self.leases.len() - 1))
            }
            Err(error) => {
                let seat = match error {
                    PoolError::AllLeased { .. } => Seat::Deferred,
                    PoolError::TooLarge { needed_bytes, budget_bytes, .. } => {
                        Seat::Failed(EmbedError::AdapterTooLarge {
                            bytes: needed_bytes,
                            pool_bytes: budget_bytes,
                        })
                    }
                    PoolError::Store { .. } => {
                        Seat::Failed(EmbedError::Internal { reason: error.to_string() })
                    }
                };
                self.refused.push((adapter.digest, seat.clone()));
                seat
            }
        }
    }

    /// The adapters of rows that got a seat: so many tokens each, through the adapter of that index.
    pub(crate) fn lora(&self, rows: impl IntoIterator<Item = (usize, Option<usize>)>) -> LoraBatch {
        let placed = self.placed.clone();
        LoraBatch::new(segments_of(rows), placed, self.places.memory.clone())
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
