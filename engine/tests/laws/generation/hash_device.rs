//! A device whose keys and values are hashes: the logits of a position depend on all that attention would read, and on
//! nothing else. Its pace is a test's to decide.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use polylora_engine::*;
use polylora_generation::{AdapterKey, BlockId, Domain, StepBatch, StepRow};

use crate::fakes;

/// Token ids of the fixture's vocabulary.
pub const VOCABULARY: u32 = 512;
/// What is drawn unless a request's own parameters want something else: the capital letters.
pub const LETTERS: RangeInclusive<u32> = 32..=57;
/// A step with this token makes the device panic.
pub const PANIC: u32 = 401;
/// A step with this token fails.
pub const FAIL: u32 = 402;
/// A row with this token has logits that are not numbers.
pub const NAN: u32 = 403;
/// While [`Control::faults`] are left, the keys and values of this token are not numbers, and one of them is used up.
pub const FLAKY: u32 = 405;
/// A step with this token has a row too few.
pub const SHORT: u32 = 404;
/// The number of an adapter that no device has room for.
pub const HUGE: u8 = 250;

/// Keys and values that are not numbers.
const NOT_A_NUMBER: u64 = u64::MAX;

/// What a test sees and decides of a device.
pub struct Control {
    /// What decides of the adapters, and hears of them.
    pub adapters: Arc<fakes::Control>,
    /// Every step that began.
    pub steps: Mutex<Vec<StepBatch>>,
    /// Runners that were built.
    pub builds: AtomicUsize,
    /// Builds that fail from now on.
    pub bad_builds: AtomicUsize,
    /// Whether every step loses the device.
    pub is_broken: AtomicBool,
    /// Adapters that find room in a step; 0 for any number.
    pub room: AtomicUsize,
    /// Rows that found none.
    pub deferred: AtomicUsize,
    /// Times that a [`FLAKY`] token goes wrong.
    pub faults: AtomicUsize,
    /// Milliseconds that a step takes.
    pub pace: AtomicU64,
    /// Steps that may be computed; `None` for any number.
    allowed: Mutex<Option<usize>>,
    changed: Condvar,
    violations: Mutex<Vec<String>>,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            adapters: fakes::control(),
            steps: Mutex::default(),
            builds: AtomicUsize::default(),
            bad_builds: AtomicUsize::default(),
            is_broken: AtomicBool::default(),
            room: AtomicUsize::default(),
            deferred: AtomicUsize::default(),
            faults: AtomicUsize::default(),
            pace: AtomicU64::default(),
            allowed: Mutex::default(),
            changed: Condvar::default(),
            violations: Mutex::default(),
        }
    }
}

impl Control {
    /// From now on a step waits until it is allowed.
    pub fn hold(&self) {
        *self.allowed.lock() = Some(0);
    }

    /// Allows so many steps more.
    pub fn allow(&self, steps: usize) {
        if let Some(allowed) = self.allowed.lock().as_mut() {
            *allowed += steps;
        }
        self.changed.notify_all();
    }

    /// Steps need no permission any more.
    pub fn let_go(&self) {
        *self.allowed.lock() = None;
        self.changed.notify_all();
    }

    /// Panics when the device was asked for something that it must never be asked for.
    pub fn check(&self) {
        assert_eq!(*self.violations.lock(), Vec::<String>::new());
    }

    /// Steps that began.
    pub fn steps(&self) -> usize {
        self.steps.lock().len()
    }

    fn wait(&self) {
        let mut allowed = self.allowed.lock();
        self.changed.wait_while(&mut allowed, |allowed| *allowed == Some(0));
        if let Some(allowed) = allowed.as_mut() {
            *allowed -= 1;
        }
        drop(allowed);
        thread::sleep(Duration::from_millis(self.pace.load(Ordering::SeqCst)));
    }

    fn violated(&self, what: String) {
        self.violations.lock().push(what);
    }
}

/// Builds devices under `control`.
pub fn factory(control: &Arc<Control>, blocks: usize, block_size: usize) -> StepRunnerFactory {
    let control = Arc::clone(control);
    Box::new(move || {
        control.builds.fetch_add(1, Ordering::SeqCst);
        let is_bad = |left: usize| left.checked_sub(1);
        if control.bad_builds.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_bad).is_ok() {
            return Err(RunError::Start { reason: "told not to come back".to_owned() });
        }
        let slots = vec![None; blocks * block_size];
        Ok(Box::new(HashDevice { control: Arc::clone(&control), block_size, slots }))
    })
}

struct HashDevice {
    control: Arc<Control>,
    block_size: usize,
    slots: Vec<Option<u64>>,
}

impl StepRunner for HashDevice {
    fn run(&mut self, step: &StepBatch, adapters: &StepAdapters) -> Result<StepOutput, RunError> {
        let control = Arc::clone(&self.control);
        control.steps.lock().push(step.clone());
        control.wait();
        let has = |token: u32| step.rows.iter().any(|row| row.tokens.contains(&token));
        assert!(!has(PANIC), "the fake device was told to panic");
        if control.is_broken.load(Ordering::SeqCst) {
            return Err(RunError::DeviceLost { reason: "told to get lost".to_owned() });
        }
        if has(FAIL) {
            return Err(RunError::Batch { reason: "told to fail".to_owned() });
        }
        for copy in &step.copies {
            for offset in 0..self.block_size {
                let (from, to) = (self.slot(copy.from, offset), self.slot(copy.to, offset));
                self.slots[to] = self.slots[from];
            }
        }
        let (mut logits, mut count, mut placed) = (vec![], 0, BTreeSet::new());
        let mut rows: VecDeque<StepRowOutcome> = VecDeque::new();
        for row in &step.rows {
            if let Some(key) = row.domain.adapter() {
                if adapters.get(&key).is_none_or(|adapter| adapter.digest.0 != key.0) {
                    control.violated(format!("{key:?} came without its adapter"));
                }
                if key == AdapterKey([HUGE; 32]) {
                    let error = GenerateError::AdapterTooLarge { bytes: 9, pool_bytes: 5 };
                    rows.push_back(StepRowOutcome::Failed(error));
                    continue;
                }
                let room = control.room.load(Ordering::SeqCst);
                if room > 0 && placed.len() == room && !placed.contains(&key.0) {
                    control.deferred.fetch_add(1, Ordering::SeqCst);
                    rows.push_back(StepRowOutcome::Deferred);
                    continue;
                }
                placed.insert(key.0);
            }
            let contents = self.compute(row);
            let first = count;
            for content in &contents[contents.len() - row.wanted_logits()..] {
                logits.extend(logits_of(*content, row.tokens.contains(&NAN)));
                count += 1;
            }
            rows.push_back(StepRowOutcome::Computed { logits: first..count });
        }
        if has(SHORT) {
            rows.pop_front();
        }
        let vocab_size = VOCABULARY as usize;
        Ok(StepOutput { rows: rows.into(), logits, vocab_size, lora_launches: placed.len() as u64 })
    }
}

impl HashDevice {
    /// Writes the row's slots and gives what is in them.
    fn compute(&mut self, row: &StepRow) -> Vec<u64> {
        let slot =
            |position: usize| self.slot(row.blocks[position / self.block_size], position % self.block_size);
        let places: Vec<usize> = (0..row.context + row.tokens.len()).map(slot).collect();
        let mut contents = vec![];
        for place in &places[..row.context] {
            contents.push(self.slots[*place].unwrap_or_else(|| {
                self.control.violated(format!("{row:?} reads what nobody wrote"));
                0
            }));
        }
        for (place, token) in places[row.context..].iter().zip(&row.tokens) {
            let is_fault = |left: usize| left.checked_sub(1).filter(|_| *token == FLAKY);
            let faults = &self.control.faults;
            let content = match faults.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_fault) {
                Ok(_) => NOT_A_NUMBER,
                Err(_) => attend(row.domain, &contents, *token),
            };
            contents.push(content);
            self.slots[*place] = Some(content);
        }
        contents.split_off(row.context)
    }

    fn slot(&self, block: BlockId, offset: usize) -> usize {
        block.0 as usize * self.block_size + offset
    }
}

/// The adapter `a<number>` as the scheduler knows it; 0 is the base.
pub fn domain(number: u8) -> Domain {
    match number {
        0 => Domain::Base,
        n => Domain::Adapter(AdapterKey([n; 32])),
    }
}

/// The logits after each of `tokens`, for a sequence that is alone.
pub fn logits_alone(number: u8, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut contents = vec![];
    for token in tokens {
        contents.push(attend(domain(number), &contents, *token));
    }
    contents.into_iter().map(|content| logits_of(content, false)).collect()
}

/// What follows `prompt` when the likeliest token is always taken and there is nobody else: the oracle of every law.
pub fn alone(number: u8, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut contents = vec![];
    let mut tokens = prompt.to_vec();
    while tokens.len() < prompt.len() + count {
        for token in &tokens[contents.len()..] {
            contents.push(attend(domain(number), &contents, *token));
        }
        let logits = logits_of(contents[contents.len() - 1], false);
        let best = (0..VOCABULARY).rev().max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize]));
        tokens.push(best.unwrap());
    }
    tokens.split_off(prompt.len())
}

/// A number for each token: letters 0 to 10, all others far below.
fn logits_of(content: u64, is_nan: bool) -> Vec<f32> {
    let logit = |token: u32| {
        let noise = (hash((content, token)) % 1_000_000) as f32 / 100_000.0;
        match LETTERS.contains(&token) {
            _ if is_nan || content == NOT_A_NUMBER => f32::NAN,
            true => noise,
            false => noise - 40.0,
        }
    };
    (0..VOCABULARY).map(logit).collect()
}

fn attend(domain: Domain, before: &[u64], token: u32) -> u64 {
    if before.contains(&NOT_A_NUMBER) {
        return NOT_A_NUMBER;
    }
    hash((domain, before, token))
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
