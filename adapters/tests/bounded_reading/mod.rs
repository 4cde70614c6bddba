//! Reading an adapter under a bound on memory.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    fs,
    path::Path,
    sync::{Mutex, MutexGuard},
};

use peak_alloc::PeakAlloc;
use polylora_adapters::{AdapterError, AdapterManifest, FileTrust, LoadedAdapter};

use crate::peft_files::{MadeUpBase, bad};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

static ALONE: Mutex<()> = Mutex::new(());

/// One at a time: the allocator counts for the whole process.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// What reading may take apart from the file: the catalogue's names, patterns, the base's rows.
pub const FIXED_BYTES: usize = 4 << 20;

/// Values, their extent and what lies between: at most this many times the file.
const TIMES_THE_FILE: usize = 8;

/// Memory that reading these files may take.
pub fn bound(config: &[u8], weights: &[u8]) -> usize {
    FIXED_BYTES + TIMES_THE_FILE * (config.len() + weights.len())
}

/// What `read` gives, with its peak of memory held against `bound`.
pub fn within<T>(bound: usize, read: impl FnOnce() -> T) -> T {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = read();
    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(taken <= bound, "{taken} bytes were taken, expected at most {bound}");
    result
}

/// Inspects and loads, within `bound`.
pub fn read_within(folder: &Path, base: &MadeUpBase, bound: usize) -> Result<LoadedAdapter, AdapterError> {
    within(bound, || {
        AdapterManifest::inspect(folder, FileTrust::WithinFolder, &base.catalog)
            .and_then(|manifest| manifest.load(base))
    })
}

/// Writes an adapter's two files.
pub fn write(folder: &Path, config: &[u8], weights: &[u8]) {
    fs::write(folder.join("adapter_config.json"), config).unwrap();
    fs::write(folder.join("adapter_model.safetensors"), weights).unwrap();
}

/// The files of a small adapter that is sound.
pub fn control() -> (Vec<u8>, Vec<u8>) {
    let read = |file| fs::read(bad("_good_control").join(file)).unwrap();
    (read("adapter_config.json"), read("adapter_model.safetensors"))
}
