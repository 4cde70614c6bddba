//! A device, a tokenizer and a store of adapters whose answers are known and whose pace a test decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use polylora_adapters::{Digest, LoadedAdapter};
use polylora_engine::*;
use polylora_kernels::extent::{ExtentLayout, HostExtent};

/// Width of the fake model.
pub const WIDTH: usize = 8;
/// Tokens an input may have.
pub const MAX_TOKENS: usize = 32;
/// A row with this id makes the device panic.
pub const PANIC: u32 = 901;
/// A row with this id has an embedding that is not finite.
pub const NAN: u32 = 902;
/// A row with this id makes the device wait at its gate.
pub const GATE: u32 = 903;
/// A row with this id fails the batch.
pub const FAIL: u32 = 904;
/// A row with this id loses the device.
pub const LOSE: u32 = 905;
/// A row with this id has an embedding that is too short.
pub const SHORT: u32 = 906;

/// A warm-up shape of so many tokens makes the device wait at its gate.
pub const WARM_AT_GATE: usize = 801;
/// One of so many fails.
pub const WARM_FAIL: usize = 802;
/// One of so many makes the device panic.
pub const WARM_PANIC: usize = 803;

/// A door that a thread waits at until the test opens it.
#[derive(Default)]
pub struct Gate {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    /// Waits until the gate is open.
    pub fn pass(&self) {
        let mut state = self.state.lock();
        state.0 += 1;
        self.changed.notify_all();
        self.changed.wait_while(&mut state, |state| !state.1);
    }

    /// Waits until somebody has come to the gate.
    pub fn wait_for_arrival(&self) {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.0 == 0);
    }

    /// Lets everybody through from now on.
    pub fn open(&self) {
        self.state.lock().1 = true;
        self.changed.notify_all();
    }
}

/// A row as the device saw it: its adapter's number and its token ids.
pub type SeenRow = (Option<u8>, Vec<u32>);

/// What a test sees and decides of the fakes.
pub struct Control {
    pub device_gate: Gate,
    pub adapter_gate: Gate,
    /// Thread of every batch, and the compute threads that it had.
    pub runs: Mutex<Vec<(String, usize)>>,
    /// Every row of every batch.
    pub batches: Mutex<Vec<Vec<SeenRow>>>,
    /// Adapters that the device has room for.
    pub pool_room: AtomicUsize,
    /// Whether every batch loses the device.
    pub is_broken: AtomicBool,
    pub builds: AtomicUsize,
    /// Builds beyond this one panic.
    pub good_builds: AtomicUsize,
    pub loads: AtomicUsize,
    pub tokenized: AtomicUsize,
    /// What the device wants to warm up.
    pub warm_up_plan: Mutex<Vec<WarmUpShape>>,
    pub warm_up_bounds: Mutex<Option<WarmUpBounds>>,
    /// The shapes that were begun.
    pub warmed: Mutex<Vec<WarmUpShape>>,
    /// How versions answered, as their source was told.
    pub answers: Mutex<Vec<(VersionId, bool)>>,
    /// Whether the source panics when it is told.
    pub answers_panic: AtomicBool,
    violations: Mutex<Vec<String>>,
}

impl Control {
    /// Panics when the engine gave the device a batch that it must never see.
    pub fn check(&self) {
        assert_eq!(*self.violations.lock(), Vec::<String>::new());
    }
}

/// What the fake model makes of a row: a function of its own ids and its own adapter.
pub fn embedding_of(adapter: Option<u8>, ids: &[u32]) -> Vec<f32> {
    let mut state = 17 + adapter.map_or(0, |number| 1000 + u64::from(number));
    let mix = |state: u64, value: u64| (state ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
    ids.iter().for_each(|&id| state = mix(state, u64::from(id)));
    (0..WIDTH as u64).map(|place| (mix(state, place) % 10_007) as f32 + 1.0).collect()
}

struct FakeRunner(Arc<Control>);

impl Runner for FakeRunner {
    fn run(&mut self, batch: &Batch) -> Result<BatchOutput, RunError> {
        let control = &self.0;
        let numbers: Vec<_> =
            batch.rows.iter().map(|row| row.adapter.as_ref().map(|a| a.digest.0[0])).collect();
        let log = batch.rows.iter().zip(&numbers).map(|(row, &number)| (number, row.ids.to_vec())).collect();
        control.batches.lock().push(log);
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        control.runs.lock().push((thread, polylora_kernels::team::threads()));
        let mut segments = numbers.clone();
        segments.dedup();
        let distinct: std::collections::BTreeSet<_> = segments.iter().collect();
        if batch.rows.is_empty() || batch.rows.iter().any(|row| row.ids.is_empty()) {
            control.violations.lock().push("an empty batch or row".to_owned());
        }
        if distinct.len() != segments.len() {
            control.violations.lock().push(format!("segments {segments:?}"));
        }
        let has = |id: u32| batch.rows.iter().any(|row| row.ids.contains(&id));
        if has(GATE) {
            control.device_gate.pass();
        }
        assert!(!has(PANIC), "the fake device was told to panic");
        if has(FAIL) {
            return Err(RunError::Batch { reason: "told to fail".to_owned() });
        }
        if has(LOSE) || control.is_broken.load(Ordering::SeqCst) {
            return Err(RunError::DeviceLost { reason: "told to get lost".to_owned() });
        }
        let room = control.pool_room.load(Ordering::SeqCst);
        let mut placed = vec![];
        let mut outcome = |row: &BatchRow, number: Option<u8>| {
            if let Some(number) = number {
                if number == HUGE {
                    return RowOutcome::Failed(EmbedError::AdapterTooLarge { bytes: 9, pool_bytes: 5 });
                }
                if !placed.contains(&number) {
                    if placed.len() == room {
                        return RowOutcome::Deferred;
                    }
                    placed.push(number);
                }
            }
            let mut embedding = match row.output {
                // The vector of a token is that of a row that has it alone.
                RowOutput::Tokens => row.ids.iter().flat_map(|&id| embedding_of(number, &[id])).collect(),
                _ => embedding_of(number, &row.ids),
            };
            if row.ids.contains(&NAN) {
                embedding[3] = f32::NAN;
            }
            if row.ids.contains(&SHORT) {
                embedding.pop();
            }
            RowOutcome::Embedding(embedding)
        };
        let rows = batch.rows.iter().zip(numbers).map(|(row, number)| outcome(row, number)).collect();
        Ok(BatchOutput { rows, lora_launches: placed.len() as u64 })
    }

    fn pool_usage(&self) -> PoolUsage {
        PoolUsage { adapters: 2, bytes: 640, leases: 1, evictions: 3 }
    }

    fn warm_up_plan(&self, bounds: &WarmUpBounds) -> Vec<WarmUpShape> {
        *self.0.warm_up_bounds.lock() = Some(*bounds);
        self.0.warm_up_plan.lock().clone()
    }

    fn warm_up(&mut self, shape: &WarmUpShape) -> Result<(), RunError> {
        self.0.warmed.lock().push(shape.clone());
        match shape.tokens() {
            WARM_AT_GATE => self.0.device_gate.pass(),
            WARM_FAIL => return Err(RunError::Batch { reason: "told to fail".to_owned() }),
            WARM_PANIC => panic!("the fake device was told to panic"),
            _ => {}
        }
        Ok(())
    }
}

/// Number of the adapter `huge`, which no pool has room for.
const HUGE: u8 = 250;

pub struct FakeTokenizer(pub Arc<Control>);

/// Ids of a text: 1, its bytes, 2.
pub fn ids_of(text: &str) -> Vec<u32> {
    std::iter::once(1).chain(text.bytes().map(u32::from)).chain([2]).collect()
}

impl Tokenize for FakeTokenizer {
    fn encode(&self, text: &str, limit: Option<usize>) -> Result<Vec<u32>, String> {
        self.0.tokenized.fetch_add(1, Ordering::SeqCst);
        let mut ids = ids_of(text);
        if let Some(limit) = limit.filter(|&limit| limit < ids.len()) {
            ids.truncate(limit - 1);
            ids.push(2);
        }
        Ok(ids)
    }

    fn encode_tail(&self, text: &str, limit: usize) -> Result<Vec<u32>, String> {
        self.0.tokenized.fetch_add(1, Ordering::SeqCst);
        let mut ids = ids_of(text);
        let surplus = ids.len().saturating_sub(limit);
        ids.drain(1..1 + surplus);
        Ok(ids)
    }

    fn tokens(&self, text: &str, special_tokens: bool) -> Result<Vec<TextToken>, String> {
        let added = |id| TextToken { id, text: format!("<{id}>"), span: None };
        let letter = |(at, byte): (usize, u8)| TextToken {
            id: byte.into(),
            text: char::from(byte).into(),
            span: Some((at, at + 1)),
        };
        let mut tokens: Vec<_> = text.bytes().enumerate().map(letter).collect();
        if special_tokens {
            tokens.insert(0, added(1));
            tokens.push(added(2));
        }
        Ok(tokens)
    }

    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        let kept = ids.iter().filter(|&&id| !skip_special_tokens || id > 2);
        kept.map(|&id| char::from_u32(id).ok_or_else(|| format!("{id} is no letter"))).collect()
    }

    fn vocab_size(&self) -> usize {
        256
    }
}

/// Adapters `a1` to `a99` in memory, `slow-1` to `slow-9` behind the gate, `panics`, `refused`, `huge`.
pub struct FakeAdapters(pub Arc<Control>);

/// The adapter whose digest is all `number`.
pub fn adapter(number: u8) -> LoadedAdapter {
    let extent = HostExtent::zeroed(ExtentLayout::new(vec![], |_| 0));
    LoadedAdapter { digest: Digest([number; 32]), extent: Arc::new(extent), chat: None }
}

/// The adapter of that number, as its own version.
fn served(number: u8) -> ServedAdapter {
    let served_by = ServedBy { id: VersionId(number.into()), tag: format!("a{number}@1.0.0#fake") };
    ServedAdapter { adapter: adapter(number), served_by }
}

impl AdapterSource for FakeAdapters {
    fn find(&self, query: &AdapterQuery<'_>) -> Result<FoundAdapter, EmbedError> {
        let name = query.name;
        let number = |prefix: &str| name.strip_prefix(prefix).and_then(|n| n.parse::<u8>().ok());
        let later = || Ok(FoundAdapter::NotLoaded(Ticket::Resolve(name.to_owned())));
        match name {
            "huge" => Ok(FoundAdapter::Loaded(served(HUGE))),
            "panics" => later(),
            "refused" => {
                Err(EmbedError::AdapterInvalid { name: name.to_owned(), reason: "it is a fake".to_owned() })
            }
            _ if number("slow-").is_some() => later(),
            _ => match number("a") {
                Some(number) => Ok(FoundAdapter::Loaded(served(number))),
                None => Err(EmbedError::UnknownAdapter { name: name.to_owned() }),
            },
        }
    }

    fn load(&self, ticket: &Ticket) -> Result<ServedAdapter, EmbedError> {
        let Ticket::Resolve(name) = ticket else { panic!("fakes give names as tickets") };
        self.0.loads.fetch_add(1, Ordering::SeqCst);
        assert_ne!(name, "panics");
        self.0.adapter_gate.pass();
        let number: u8 = name.trim_start_matches("slow-").parse().unwrap();
        Ok(served(100 + number))
    }

    fn list(&self) -> Vec<AdapterInfo> {
        vec![]
    }

    fn memory(&self) -> AdapterMemory {
        AdapterMemory { adapters: 7, bytes: 700 }
    }

    fn answered(&self, id: VersionId, is_ok: bool, _took: Duration) {
        assert!(!self.0.answers_panic.load(Ordering::SeqCst), "the fake source was told to panic");
        self.0.answers.lock().push((id, is_ok));
    }
}

/// Fakes with gates of their own, as a test may want to set before the engine starts.
pub fn control() -> Arc<Control> {
    Arc::new(Control {
        device_gate: Gate::default(),
        adapter_gate: Gate::default(),
        runs: Mutex::default(),
        batches: Mutex::default(),
        pool_room: AtomicUsize::new(usize::MAX),
        is_broken: AtomicBool::new(false),
        builds: AtomicUsize::new(0),
        good_builds: AtomicUsize::new(usize::MAX),
        loads: AtomicUsize::new(0),
        tokenized: AtomicUsize::new(0),
        warm_up_plan: Mutex::default(),
        warm_up_bounds: Mutex::default(),
        warmed: Mutex::default(),
        answers: Mutex::default(),
        answers_panic: AtomicBool::new(false),
        violations: Mutex::default(),
    })
}

/// Builds fake runners and panics when there were enough.
pub fn factory(control: &Arc<Control>) -> RunnerFactory {
    let control = Arc::clone(control);
    Box::new(move || {
        let build = control.builds.fetch_add(1, Ordering::SeqCst);
        assert!(build < control.good_builds.load(Ordering::SeqCst), "the fake device does not come back");
        Ok(Box::new(FakeRunner(Arc::clone(&control))))
    })
}
