//! How fast memory is read, which bounds how fast one text goes on: every token reads all weights.

use std::hint::black_box;
use std::time::Duration;

use polylora_kernels::team;

use crate::{BenchError, passes};

/// Much larger than any cache.
const BYTES: usize = 1 << 30;
/// Values of one task: 1 MiB.
const PART: usize = (1 << 20) / size_of::<u64>();
/// Sums side by side, so that adding does not hold up reading.
const SUMS: usize = 32;

/// Bytes a second at the fastest of the passes over a buffer by all threads, in about `budget`.
///
/// # Errors
/// None of its own.
pub fn read_rate(budget: Duration) -> Result<f64, BenchError> {
    // Different values: pages that were never written would all be the same one of zeros.
    let buffer: Vec<u64> = (0..(BYTES / size_of::<u64>()) as u64).collect();
    let parts: Vec<&[u64]> = buffer.chunks(PART).collect();
    let times = passes(budget, || {
        team::for_each(parts.len(), |part| {
            black_box(sum(parts[part]));
        });
        Ok(())
    })?;
    Ok(BYTES as f64 * 1e3 / times.min())
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
