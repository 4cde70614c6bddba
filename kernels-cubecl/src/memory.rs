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

/// The system has not so much memory, or the device no buffer as large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfMemory {
    /// The host refused.
    #[error("{bytes} bytes for adapters cannot be allocated: ask for less (--lora-memory)")]
    Host {
        /// Bytes asked for.
        bytes: usize,
    },
    /// A device's buffers are smaller.
    #[error(
        "{bytes} bytes for adapters are more than one buffer of this device holds: ask for at most {most} (--lora-memory)"
    )]
    Buffer {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes of the largest buffer.
        most: usize,
    },
}

impl AdapterMemory {
    /// Memory for `capacity` values of `dtype` on `device`. On the CPU nothing is allocated but in f16.
    ///
    /// # Errors
    /// When the host has not so much, or a GPU no buffer as large.
    pub fn new(device: &Device, dtype: DType, capacity: usize) -> Result<Self, OutOfMemory> {
        let bytes = capacity.saturating_mul(dtype.size());
        if !is_cpu(device) {
            let most = largest_buffer(device, dtype);
            return if bytes > most {
                Err(OutOfMemory::Buffer { bytes, most })
            } else {
                Ok(Self::arena(device, dtype, capacity))
            };
        }
        if dtype != DType::F16 {
            return Ok(AdapterMemory::HostAlias);
        }
        // Asked first, because the tensor's own allocation would end the process.
        let mut probe = Vec::<u8>::new();
        probe.try_reserve_exact(bytes).map_err(|_| OutOfMemory::Host { bytes })?;
        drop(probe);
        Ok(Self::arena(device, dtype, capacity))
    }

    /// An arena even where aliasing would do: what the reference computes with.
    pub fn arena(device: &Device, dtype: DType, capacity: usize) -> Self {
        // In a place of its own: the device's pools, which size their pages by what they have served, never see it.
        let zeros = |()| Box::new(Tensor::zeros([capacity], (device, dtype)));
        AdapterMemory::Arena(device.memory_persistent_allocations((), zeros))
    }

    /// Writes an extent, which is not empty, to `offset`, in values. The caller sees to it that no batch in flight reads
    /// there, and is the thread that made the memory: writes of another would not be ordered with its batches. After a panic the memory must not be used again.
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

/// Bytes of the largest buffer of `dtype` values that kernels can work on: what the device binds at once, and no more values
/// than 32 bits number.
pub fn largest_buffer(device: &Device, dtype: DType) -> usize {
    let numbered = (u32::MAX as usize).saturating_mul(dtype.size());
    bound_at_once(device).map_or(numbered, |bytes| numbered.min(usize::try_from(bytes).unwrap_or(usize::MAX)))
}

#[cfg(not(feature = "cube"))]
fn bound_at_once(_device: &Device) -> Option<u64> {
    None
}

#[cfg(feature = "cube")]
fn bound_at_once(device: &Device) -> Option<u64> {
    match device.as_dispatch() {
        burn::backend::DispatchDevice::Cube(device) => {
            Some(device.client().properties().memory.max_page_size)
        }
        _ => None,
    }
}
