//! Where adapters' values live for the device: in its own arena, or, on the CPU, where they already are.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::device::is_cpu;
use crate::extent::HostExtent;

/// The device's memory for adapters.
#[derive(Clone, Debug)]
pub enum AdapterMemory {
    /// The kernels read the host extents themselves; nothing is copied.
    HostAlias,
    /// One tensor, `[capacity]`, of the compute dtype.
    Arena(Box<Tensor<1>>),
}

/// The system has not so much memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes for adapters cannot be allocated: ask for less (--lora-memory)")]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub bytes: usize,
}

impl AdapterMemory {
    /// Memory for `capacity` values of `dtype` on `device`. On the CPU in f32 nothing is allocated.
    ///
    /// # Errors
    /// When the host has not so much; a GPU's own allocator speaks for itself.
    pub fn new(device: &Device, dtype: DType, capacity: usize) -> Result<Self, OutOfMemory> {
        if !is_cpu(device) {
            return Ok(Self::arena(device, dtype, capacity));
        }
        if dtype == DType::F32 {
            return Ok(AdapterMemory::HostAlias);
        }
        // Asked first, because the tensor's own allocation would end the process.
        let bytes = capacity.saturating_mul(dtype.size());
        let mut probe = Vec::<u8>::new();
        probe.try_reserve_exact(bytes).map_err(|_| OutOfMemory { bytes })?;
        drop(probe);
        Ok(Self::arena(device, dtype, capacity))
    }

    /// An arena even where aliasing would do: what the reference computes with.
    pub fn arena(device: &Device, dtype: DType, capacity: usize) -> Self {
        AdapterMemory::Arena(Box::new(Tensor::zeros([capacity], (device, dtype))))
    }

    /// Writes an extent, which is not empty, to `offset`, in values. The caller sees to it that no batch in flight reads
    /// there. After a panic the memory must not be used again.
    pub fn store(&mut self, offset: usize, extent: &Arc<HostExtent>) {
        if let AdapterMemory::Arena(arena) = self {
            let len = extent.layout().len();
            let data = TensorData::new(extent.values().to_vec(), [len]);
            let values = Tensor::<1>::from_data(data, (&arena.device(), DType::F32)).cast(arena.dtype());
            // Taken, not cloned: with one handle the write is in place, not a copy of the arena. Should it panic, this
            // memory is of no more use and its owner builds another.
            let whole = std::mem::replace(arena.as_mut(), values.clone());
            **arena = whole.slice_assign([offset..offset + len], values);
        }
    }
}
