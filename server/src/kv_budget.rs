//! How many bytes keys and values get: as many as the operator says, or a share of what is free once the weights are there.

use polylora_kernels::device::{OpenDevice, is_cpu};
use polylora_kernels::{device_memory, host_memory};

use crate::settings::{ByteSize, Settings, Share};

/// Where nothing is asked for and the device does not tell what it has, or is the CPU, whose memory is everybody's.
const DEFAULT_BYTES: u64 = 1 << 30;
/// Where nothing is asked for and the device tells what it has: the rest is for what a step computes.
const DEFAULT_SHARE: f64 = 0.9;

/// Bytes for keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvBudget {
    /// So many.
    pub(crate) bytes: u64,
    /// Whether the operator said that number, and nothing less will do.
    pub(crate) is_asked: bool,
}

/// There is no such budget.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum KvBudgetError {
    /// A share of nobody knows what.
    #[error(
        "--gpu-memory-utilization {share} is a share of free memory, and {device} does not tell how much it has: give the KV \
         cache its size in bytes (--kv-cache-memory-bytes)"
    )]
    Untold {
        /// The share asked for.
        share: f64,
        /// The device.
        device: String,
    },
    /// The weights, and what adapters are promised, leave nothing.
    #[error(
        "{device} has no memory left for a KV cache beside the weights and {reserved} bytes for adapters (--lora-memory)"
    )]
    NothingLeft {
        /// The device.
        device: String,
        /// Bytes that adapters are promised.
        reserved: u64,
    },
}

impl KvBudget {
    /// The budget on `device`, where the weights have been loaded and adapters' memory has not been taken yet.
    ///
    /// # Errors
    /// When a share is asked for and cannot be told, or nothing is left.
    pub(crate) fn of(settings: &Settings, device: &OpenDevice) -> Result<Self, KvBudgetError> {
        let on_cpu = is_cpu(&device.device);
        let place = Place { name: &device.name, on_cpu, reserved: settings.lora_memory.0 };
        let asked = (settings.kv_cache_memory_bytes, settings.gpu_memory_utilization);
        let free = || match on_cpu {
            true => host_memory::available(),
            false => {
                // What loading left behind is free as well.
                device_memory::cleanup(&device.device);
                device_memory::free(&device.device)
            }
        };
        budget(asked, &place, free)
    }
}

/// Where the cache is to lie.
struct Place<'a> {
    name: &'a str,
    on_cpu: bool,
    /// Bytes that adapters are promised.
    reserved: u64,
}

fn budget(
    (bytes, share): (Option<ByteSize>, Option<Share>),
    place: &Place<'_>,
    free: impl FnOnce() -> Option<u64>,
) -> Result<KvBudget, KvBudgetError> {
    let default = KvBudget { bytes: DEFAULT_BYTES, is_asked: false };
    let device = || place.name.to_owned();
    let (wanted, is_share_asked) = match (bytes, share) {
        (Some(ByteSize(bytes)), _) => return Ok(KvBudget { bytes, is_asked: true }),
        (None, Some(Share(share))) => (share, true),
        (None, None) if place.on_cpu => return Ok(default),
        (None, None) => (DEFAULT_SHARE, false),
    };
    let Some(free) = free() else {
        if is_share_asked {
            return Err(KvBudgetError::Untold { share: wanted, device: device() });
        }
        tracing::info!(
            device = place.name,
            bytes = DEFAULT_BYTES,
            "the device does not tell how much memory it has: the KV cache gets the default (--kv-cache-memory-bytes)"
        );
        return Ok(default);
    };
    let bytes = (free.saturating_sub(place.reserved) as f64 * wanted) as u64;
    if bytes == 0 {
        return Err(KvBudgetError::NothingLeft { device: device(), reserved: place.reserved });
    }
    tracing::info!(
        device = place.name,
        free,
        share = wanted,
        bytes,
        "the KV cache gets a share of what is free"
    );
    Ok(KvBudget { bytes, is_asked: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: Place<'_> = Place { name: "cuda:0", on_cpu: false, reserved: 200 };
    const CPU: Place<'_> = Place { name: "cpu", on_cpu: true, reserved: 200 };

    fn bytes(budget: Result<KvBudget, KvBudgetError>) -> u64 {
        budget.expect("a budget").bytes
    }

    #[test]
    fn bytes_go_before_a_share_and_nothing_is_asked_of_the_device() {
        let asked = (Some(ByteSize(7)), Some(Share(0.5)));
        let found = budget(asked, &GPU, || unreachable!("nobody asks"));
        assert_eq!(found, Ok(KvBudget { bytes: 7, is_asked: true }));
    }

    #[test]
    fn a_device_that_tells_gives_a_share_of_what_adapters_leave() {
        assert_eq!(bytes(budget((None, None), &GPU, || Some(1200))), 900);
        assert_eq!(bytes(budget((None, Some(Share(0.5))), &GPU, || Some(1200))), 500);
        assert_eq!(bytes(budget((None, Some(Share(0.5))), &CPU, || Some(1200))), 500);
    }

    #[test]
    fn a_device_that_does_not_tell_gives_the_default_and_refuses_a_share() {
        assert_eq!(bytes(budget((None, None), &GPU, || None)), DEFAULT_BYTES);
        let error = budget((None, Some(Share(0.5))), &GPU, || None).expect_err("untold");
        assert!(matches!(error, KvBudgetError::Untold { .. }));
        let message = error.to_string();
        assert!(message.contains("cuda:0") && message.contains("--kv-cache-memory-bytes"), "{message}");
    }

    #[test]
    fn the_hosts_memory_is_only_shared_out_when_somebody_asks() {
        assert_eq!(bytes(budget((None, None), &CPU, || unreachable!("nobody asks"))), DEFAULT_BYTES);
    }

    #[test]
    fn a_device_full_of_weights_is_said() {
        let error = budget((None, None), &GPU, || Some(150)).expect_err("nothing left");
        assert_eq!(error, KvBudgetError::NothingLeft { device: "cuda:0".into(), reserved: 200 });
    }
}
