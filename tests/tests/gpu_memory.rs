//! A server runs for months: batches of every shape, adapters that come and go, and the memory stays what it was. Alone in
//! its file, because the device's pools and the process's memory are counted as a whole.

use std::sync::Arc;

use polylora_adapters::{AdapterManifest, BaseModel, FileTrust, LoadedAdapter};
use polylora_engine::{Batch, BatchRow, EncoderRunner, LoraRoom, RowOutcome, Runner};
use polylora_kernels::device_memory::{self, DeviceMemory};
use polylora_models::EmbeddingModel;
use polylora_tests::{BertSize, RandomAdapter, fixtures, wgpu_or_not_run};

const BATCHES: usize = 10_000;
/// By then every size of buffer has been there.
const SETTLED: usize = 2_000;
/// What the device's pools may differ by from one batch to another; 8,000 that leak 16 bytes each would be 128 KB.
const POOL_SLACK: u64 = 64 << 10;
/// What the process may grow by afterwards; 8,000 batches that leak a page each would be 32 MiB.
const RESIDENT_SLACK: usize = 16 << 20;
const RANKS: [usize; 5] = [1, 4, 8, 20, 40];
/// Room for some of the adapters and never for all: they are written to the device again and again.
const LORA_BYTES: usize = 384 << 10;
const MOST_ROWS: u64 = 4;
const MOST_TOKENS: usize = 24;

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound) as usize
    }
}

fn adapters(model: &EmbeddingModel) -> Vec<LoadedAdapter> {
    let folder = tempfile::tempdir().expect("a folder");
    let load = |rank: usize| {
        let path = folder.path().join(rank.to_string());
        RandomAdapter { seed: rank as u64, rank }.write_for(BertSize::TINY, &path);
        let manifest = AdapterManifest::inspect(&path, FileTrust::WithinFolder, model.catalog());
        manifest.expect("inspects").load(model).expect("loads")
    };
    RANKS.into_iter().map(load).collect()
}

/// Rows of random lengths, those of one adapter side by side.
fn batch(random: &mut Random, adapters: &[LoadedAdapter], max_tokens: usize) -> Batch {
    let rows = 1 + random.below(MOST_ROWS);
    let mut rows: Vec<(usize, usize)> = (0..rows)
        .map(|_| (random.below(adapters.len() as u64 + 1), 1 + random.below(max_tokens as u64)))
        .collect();
    rows.sort_unstable();
    let row = |(adapter, tokens): (usize, usize)| BatchRow {
        ids: (0..tokens).map(|_| random.below(500) as u32).collect(),
        adapter: adapters.get(adapter).cloned(),
        output: Default::default(),
    };
    Batch { rows: rows.into_iter().map(row).collect() }
}

/// Bytes of this process in memory, where the system tells (Linux).
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}

#[test]
fn memory_is_steady_over_ten_thousand_batches_of_random_shapes() {
    let Some(device) = wgpu_or_not_run("memory over 10,000 batches on a GPU") else {
        return;
    };
    let model = EmbeddingModel::load(&fixtures("encoders/bert/model"), &device).expect("loads");
    let model = Arc::new(model);
    let adapters = adapters(&model);
    let mut runner =
        EncoderRunner::new(model.clone(), LoraRoom { bytes: LORA_BYTES, adapters: None }).expect("a runner");
    let mut random = Random(0x5eed);
    let mut settled: Option<(DeviceMemory, Option<usize>)> = None;
    let usage = || device_memory::usage(&device.device).expect("a GPU has pools");
    for number in 1..=BATCHES {
        let batch = batch(&mut random, &adapters, model.max_tokens().min(MOST_TOKENS));
        let output = runner.run(&batch).expect("runs");
        let embedded = |row: &RowOutcome| matches!(row, RowOutcome::Embedding(_) | RowOutcome::Deferred);
        assert!(output.rows.iter().all(embedded), "{:?}", output.rows);
        if number == SETTLED {
            settled = Some((usage(), resident()));
        }
    }
    let ((before, resident_before), now) = (settled.expect("enough batches"), usage());
    assert!(
        now.reserved <= before.reserved + POOL_SLACK,
        "the device's pools grew from {before:?} to {now:?}"
    );
    assert!(now.in_use <= before.in_use + POOL_SLACK, "tensors stay: {before:?}, {now:?}");
    if let (Some(before), Some(now)) = (resident_before, resident()) {
        assert!(now <= before + RESIDENT_SLACK, "the process grew from {before} to {now} bytes");
    }
    drop(runner);
    device_memory::cleanup(&device.device);
    assert!(usage().reserved <= now.reserved);
}
