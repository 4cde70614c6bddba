//! Linear layers and attention on AMX's tiles: the machine's own where it has some, else emulated ones
//! ([`tile_emulator`](crate::tile_emulator)). What is proved is all but speed.

mod attention;
mod layers;
mod products;

use std::io::Write;
use std::num::NonZeroUsize;

use crate::isa::Isa;
use crate::tile_emulator::{processor_has_tiles, standing_in};
use crate::{Element, team};

/// Runs a law where [`Isa::Amx`] is available on this thread; says that it did not run where that cannot be.
fn on_tiles(law: impl FnOnce()) {
    if Isa::available().contains(&Isa::Avx512) {
        on_tiles_alone(law);
    } else {
        not_run("this processor has no AVX-512, which the kernels around the tiles are compiled for");
    }
}

/// The same for a law of the tiles' own functions, which need nothing else.
fn on_tiles_alone(law: impl FnOnce()) {
    if !processor_has_tiles() {
        standing_in(law);
    } else if Isa::available().contains(&Isa::Amx) {
        law();
    } else {
        not_run("the system does not permit the processor's tiles, or they lack bf16 or int8");
    }
}

/// Straight to stderr: what a test that passes prints by macro is not shown.
fn not_run(why: &str) {
    let name = std::thread::current().name().unwrap_or("a law of AMX").to_owned();
    // There is nowhere to report a stderr that is closed.
    let _ = writeln!(std::io::stderr(), "NOT RUN: {name}: {why}");
}

/// Runs on at most `threads` threads.
pub(crate) fn on_threads<T>(threads: usize, run: impl FnOnce() -> T) -> T {
    team::with_threads(NonZeroUsize::new(threads).expect("a thread"), run)
}

/// Runs in a new thread, whose scratch memory is only as large as this one run makes it.
pub(crate) fn in_new_memory(run: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(run).join()).expect("the law holds");
}

/// Deterministic values in (-1, 1) that bf16 holds exactly.
pub(crate) fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut numbers = crate::tile_emulator::Numbers(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    (0..count)
        .map(|_| half::bf16::from_f32((numbers.next() >> 40) as f32 / 8_388_608.0 - 1.0).to_f32())
        .collect()
}

/// Values as a dtype rounds them.
fn rounded<E: Element>(values: &[f32]) -> Vec<E> {
    values.iter().map(|v| E::from_f32(*v)).collect()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Every value within `relative` of what is wanted, and `absolute` more.
pub(crate) fn assert_close(got: &[f32], want: &[f32], (relative, absolute): (f32, f32), what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= relative * w.abs() + absolute, "{what}: value {i} is {g}, expected {w}");
    }
}
