//! How fast memory is read, which bounds what a single short text can gain from more arithmetic.

use std::hint::black_box;
use std::time::Duration;

use polylora_kernels::team;

use super::machine;
use super::timing::Rates;

/// The buffer is at least this many bytes, and at most [`MOST_BYTES`].
const FEWEST_BYTES: usize = 256 << 20;
const MOST_BYTES: usize = 1 << 30;
/// Caches that the buffer is larger than, by this factor.
const CACHES: usize = 4;
/// Bytes of one task.
const PART_BYTES: usize = 1 << 20;
/// Sums side by side, so that adding does not hold up reading.
const SUMS: usize = 32;

/// Reads a buffer much larger than the caches, in GB/s (1e9 bytes).
pub fn measure(budget: Duration) -> Rates {
    let cache = machine::largest_cache().unwrap_or(0);
    let bytes = cache.saturating_mul(CACHES).clamp(FEWEST_BYTES, MOST_BYTES);
    // Different values: pages that were never written would all be the same one of zeros.
    let buffer: Vec<u64> = (0..(bytes / size_of::<u64>()) as u64).collect();
    let parts: Vec<&[u64]> = buffer.chunks(PART_BYTES / size_of::<u64>()).collect();
    Rates::of(bytes as f64, budget, || {
        team::for_each(parts.len(), |i| {
            black_box(sum(parts[i]));
        });
    })
}

fn sum(values: &[u64]) -> u64 {
    let mut sums = [0u64; SUMS];
    let (whole, rest) = values.as_chunks::<SUMS>();
    for chunk in whole {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*value);
        }
    }
    sums.iter().chain(rest).fold(0, |all, value| all.wrapping_add(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_read() {
        let values: Vec<u64> = (1..=1000).collect();
        assert_eq!(sum(&values), 500_500);
    }
}
