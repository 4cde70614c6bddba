//! Each kernel against a naive one in f64 and against its scalar twin, on every instruction set of the machine, over shapes
//! that are multiples of nothing; and the law that a row's bits do not depend on its batch mates.

mod attention;
mod decoder;
mod layer;
mod linear;
mod packed_lora;
mod paged;
mod pooling;
mod wholes;

use std::num::NonZeroUsize;

use polylora_kernels_cpu::{isa::Isa, team};

/// Deterministic values in (-1, 1).
pub fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / 8_388_608.0) - 1.0
        })
        .collect()
}

/// Every value within `tolerance` of what is wanted, relative to its size above 1.
pub fn assert_close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "{what}: value {i} is {g}, expected {w}");
    }
}

/// Runs with at most `threads` threads.
pub fn on_threads<T>(threads: usize, run: impl FnOnce() -> T) -> T {
    team::with_threads(NonZeroUsize::new(threads).expect("a thread"), run)
}

/// Says which instruction sets the laws are not proved on here.
#[test]
fn instruction_sets_that_this_machine_lacks_are_named() {
    let available = Isa::available();
    for isa in Isa::ALL.into_iter().filter(|isa| !available.contains(isa)) {
        eprintln!("NOT RUN: this machine has no {}: its kernels were not tested on it", isa.name());
    }
    assert!(available.contains(&Isa::Scalar));
}
