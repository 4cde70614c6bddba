//! What a device has, and what its allocator holds. It keeps what was given back for the next batch, so that the bytes reserved are those
//! of the largest batches so far and not those of the one that runs.

use burn::tensor::Device;

/// Bytes of a device's memory pools at one moment, over all threads that use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Taken from the device.
    pub reserved: u64,
    /// Part of them that tensors lie in now.
    pub in_use: u64,
}

/// What `device` holds; `None` on the CPU, whose tensors are the process's memory.
pub fn usage(device: &Device) -> Option<DeviceMemory> {
    let usage = device.memory_pool_usage()?;
    Some(DeviceMemory { reserved: usage.bytes_reserved, in_use: usage.bytes_in_use })
}

/// Bytes of the device that this process has not taken; `None` for a device that does not tell how many it has: the CPU, and
/// GPUs through wgpu. What other processes have taken nobody tells.
pub fn free(device: &Device) -> Option<u64> {
    let capacity = capacity(device)?;
    Some(capacity.saturating_sub(usage(device)?.reserved))
}

#[cfg(not(feature = "cube"))]
fn capacity(_device: &Device) -> Option<u64> {
    None
}

#[cfg(feature = "cube")]
fn capacity(device: &Device) -> Option<u64> {
    match device.as_dispatch() {
        burn::backend::DispatchDevice::Cube(device) => device.client().properties().memory.max_memory(),
        _ => None,
    }
}

/// Gives memory that no tensor lies in back to the device, as far as its allocator can; the next batch has to ask for
/// it again.
pub fn cleanup(device: &Device) {
    device.memory_cleanup();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_has_no_pools() {
        assert_eq!(usage(&Device::flex()), None);
        assert_eq!(free(&Device::flex()), None);
        cleanup(&Device::flex());
    }
}
