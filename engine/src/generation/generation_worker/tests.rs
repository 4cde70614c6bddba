//! Laws of the owner thread that need its inside.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use polylora_generation::{Domain, NewSequence, PrefixRoot, SamplingParams, SpecialTokens};

use super::*;
use crate::admission::Admission;
use crate::generation::live_request::{Started, most_events};
use crate::generation::presence::Presence;
use crate::generation::speech::ReadPrompt;
use crate::generation::step_runner::StepRowOutcome;
use crate::{Finish, GenerationEvent, Health};

/// The text of this token cannot be made.
const UNSPEAKABLE: u32 = 7;
/// A step with this token loses the device.
const LOSE: u32 = 9;
const VOCABULARY: usize = 16;

struct Door;

impl TokenText for Door {
    fn text_of(&self, tokens: &[u32], _special: SpecialTokens) -> String {
        assert!(!tokens.contains(&UNSPEAKABLE), "no text for it");
        "x".repeat(tokens.len())
    }
}

/// Says after each token the next one.
struct Counting {
    gate: Arc<Mutex<()>>,
    steps: Arc<AtomicUsize>,
}

impl StepRunner for Counting {
    fn run(&mut self, step: &StepBatch, _adapters: &StepAdapters) -> Result<StepOutput, RunError> {
        self.steps.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.lock());
        let (mut rows, mut logits) = (vec![], vec![]);
        for row in &step.rows {
            let last = row.tokens[row.tokens.len() - 1];
            if last == LOSE {
                return Err(RunError::DeviceLost { reason: "told to".to_owned() });
            }
            let first = logits.len() / VOCABULARY;
            if !row.draws.is_empty() {
                logits.extend((0..VOCABULARY as u32).map(|token| if token == last + 1 { 5.0 } else { 0.0 }));
            }
            rows.push(StepRowOutcome::Computed { logits: first..logits.len() / VOCABULARY });
        }
        Ok(StepOutput { rows, logits, vocab_size: VOCABULARY, lora_launches: 0 })
    }
}

struct Bench {
    jobs: mpsc::Sender<GenerationJob>,
    status: Arc<Status>,
    admission: Admission,
    gate: Arc<Mutex<()>>,
    steps: Arc<AtomicUsize>,
    builds: Arc<AtomicUsize>,
}

/// The channels that a client has of a request.
struct Asked {
    started: oneshot::Receiver<Result<Started, GenerateError>>,
    events: mpsc::Receiver<Result<GenerationEvent, GenerateError>>,
}

impl Bench {
    fn new(turns: Option<DeviceTurns>) -> Self {
        let (jobs, inbox) = mpsc::channel(64);
        let (gate, steps, builds) =
            (Arc::<Mutex<()>>::default(), Arc::default(), Arc::<AtomicUsize>::default());
        let (status, some) = (Arc::new(Status::starting()), |n| NonZeroUsize::new(n).unwrap());
        let of_runner = (Arc::clone(&gate), Arc::clone(&steps), Arc::clone(&builds));
        let factory = move || {
            of_runner.2.fetch_add(1, Ordering::SeqCst);
            let (gate, steps) = (Arc::clone(&of_runner.0), Arc::clone(&of_runner.1));
            Ok(Box::new(Counting { gate, steps }) as Box<dyn StepRunner>)
        };
        let parts = GenerationWorkerParts {
            inbox,
            limits: SchedulerLimits {
                block_size: some(4),
                blocks: NonZeroU32::new(100).unwrap(),
                max_context: some(100),
                max_batch_tokens: some(64),
                max_running: some(16),
                max_waiting: some(64),
                max_targets: some(64),
                most_adapters: None,
                prefix_caching: true,
            },
            factory: Box::new(factory),
            door: Arc::new(Door),
            warms_up: false,
            turns,
            status: Arc::clone(&status),
            metrics: Arc::new(GenerationMetrics::new("tiny", &Default::default())),
        };
        drop(spawn(parts).unwrap());
        Self { jobs, status, admission: Admission::new(64, 64), gate, steps, builds }
    }

    fn ask(&self, prompt: &[u32], max_tokens: usize) -> Asked {
        let (started, starts) = oneshot::channel();
        let (sender, events) = mpsc::channel(most_events(1, max_tokens));
        let params =
            SamplingParams { temperature: 0.0, max_tokens: Some(max_tokens), ..SamplingParams::default() };
        let ReadPrompt { tokens, max_tokens, speech } =
            ReadPrompt::new(prompt.into(), &params, 1, &[], &Door);
        let job = GenerationJob {
            sequence: NewSequence {
                id: SequenceId(0),
                prompt: tokens.to_vec(),
                root: PrefixRoot([0; 32]),
                domain: Domain::Base,
                copies: NonZeroUsize::MIN,
                max_tokens,
                scores_prompt: false,
            },
            adapter: None,
            speech,
            submitted: Instant::now(),
            started,
            events: sender,
            permits: Arc::new(self.admission.admit(1).unwrap()),
            presence: Presence::new(crate::traffic::Traffic::new().domain(None)),
            report: None,
        };
        self.jobs.blocking_send(job).unwrap();
        Asked { started: starts, events }
    }
}

fn wait_for(counter: &AtomicUsize, count: usize) {
    while counter.load(Ordering::SeqCst) < count {
        thread::sleep(Duration::from_millis(1));
    }
}

impl Asked {
    /// The tokens, or the error, and whether the text had begun by then.
    fn read(mut self) -> Result<Vec<u32>, (GenerateError, bool)> {
        self.started.blocking_recv().unwrap().map_err(|error| (error, false))?;
        let mut tokens = vec![];
        while let Some(event) = self.events.blocking_recv() {
            let event = event.map_err(|error| (error, true))?;
            tokens.extend(event.tokens.iter().map(|token| token.id));
            if event.finish == Some(Finish::Length) {
                return Ok(tokens);
            }
        }
        panic!("it broke off after {tokens:?}")
    }
}

#[test]
fn a_token_whose_text_cannot_be_made_fails_its_own_request_alone() {
    let bench = Bench::new(None);
    let closed = bench.gate.lock();
    let first = bench.ask(&[1], 3);
    wait_for(&bench.steps, 1);
    // Its first token is the unspeakable one, the other's third.
    let (at_once, later, mate) = (bench.ask(&[3, 6], 5), bench.ask(&[4], 8), bench.ask(&[10], 4));
    drop(closed);
    let is_internal = |error: &GenerateError| matches!(error, GenerateError::Internal { .. });
    let (error, has_begun) = at_once.read().unwrap_err();
    assert!(is_internal(&error) && !has_begun, "{error}");
    let (error, has_begun) = later.read().unwrap_err();
    assert!(is_internal(&error) && has_begun, "{error}");
    assert_eq!(first.read(), Ok(vec![2, 3, 4]));
    assert_eq!(mate.read(), Ok(vec![11, 12, 13, 14]));
    assert_eq!(bench.ask(&[1], 2).read(), Ok(vec![2, 3]));
    assert_eq!((bench.status.health(), bench.builds.load(Ordering::SeqCst)), (Health::Ready, 1));
}

#[test]
fn a_runner_is_built_again_when_it_is_its_turn() {
    let turns = DeviceTurns::default();
    let bench = Bench::new(Some(turns.clone()));
    let closed = bench.gate.lock();
    let lost = bench.ask(&[LOSE], 3);
    wait_for(&bench.steps, 1);
    let (taken, builds) = (AtomicUsize::new(0), &bench.builds);
    thread::scope(|scope| {
        scope.spawn(|| {
            let turn = turns.take();
            taken.store(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(50));
            assert_eq!(builds.load(Ordering::SeqCst), 1, "it is somebody else's turn");
            drop(turn);
        });
        // The other's ticket is drawn while the step is under way.
        thread::sleep(Duration::from_millis(50));
        drop(closed);
        wait_for(&taken, 1);
    });
    assert!(lost.read().is_err());
    assert_eq!(bench.ask(&[1], 1).read(), Ok(vec![2]));
    assert_eq!(bench.builds.load(Ordering::SeqCst), 2);
}
