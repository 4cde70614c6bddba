//! The compute threads: a caller and its helpers, who spin briefly for the next job and then park.
//!
//! A job is a number of tasks that whoever is free takes one by one, so a thread that a busy neighbour holds up costs its
//! share and no more: a helper that has not started yet is not waited for. Inside a task the team counts one thread, so an
//! op that is called there computes alone: work is split where it is called first, by texts before rows.
//!
//! All threads share one team, unless a thread has one of its own: then several that compute at once, each with weights of
//! its own, do not take each other's helpers away.

mod job;
#[cfg(test)]
mod laws;

use std::cell::{Cell, RefCell, UnsafeCell};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use job::Job;

/// How long a helper spins for the next job before it parks: longer than the gap between two ops of a forward pass.
const SPIN: Duration = Duration::from_micros(100);
/// Parts that a job cuts each thread's share into, so that a slower thread takes fewer of them.
pub(crate) const PARTS: usize = 3;
/// Looks at the state between two looks at the clock, or between two times that others are let run.
const SPINS_A_LOOK: u32 = 64;
/// Looks before others are let run: a system call, in which what is waited for, a few microseconds away, is not seen.
const SPINS_ALONE: u32 = 1024;

/// The number of threads was asked for after the team had started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the compute threads have started already, {started} of them")]
pub struct TeamStarted {
    /// How many there are.
    pub started: usize,
}

/// Says how many threads compute, the caller's included; without it, one a core.
///
/// # Errors
/// When they have started already.
pub fn set_threads(threads: NonZeroUsize) -> Result<(), TeamStarted> {
    let mut ours = false;
    let team = TEAM.get_or_init(|| {
        ours = true;
        Team::start(threads.get())
    });
    if ours || team.size() == threads.get() { Ok(()) } else { Err(TeamStarted { started: team.size() }) }
}

/// How many threads a job may count on here: 1 within a task, and where [`with_threads`] says less than there are.
pub fn threads() -> usize {
    if IN_TASK.get() { 1 } else { LIMIT.get().min(with_team(Team::size)) }
}

/// Runs `f` with at most `threads` threads for the jobs that it starts.
pub fn with_threads<T>(threads: NonZeroUsize, f: impl FnOnce() -> T) -> T {
    let _restore = Restore(LIMIT.replace(threads.get()));
    f()
}

/// Runs `f` with a team of `threads` threads, the caller's included, that jobs of this thread go to instead of the common
/// one. Its helpers end before this returns.
pub fn with_own_team<T>(threads: NonZeroUsize, f: impl FnOnce() -> T) -> T {
    let team = Rc::new(Team::start(threads.get()));
    let _restore = RestoreTeam(OWN.replace(Some(team)));
    f()
}

/// Runs `task(0)` to `task(tasks - 1)`, each once, in any order, on the free threads of the team, and returns when all are
/// done. Alone where the team has a job already.
///
/// # Panics
/// When a task does, with what it said; on a team the others are done first.
pub fn for_each(tasks: usize, task: impl Fn(usize) + Sync) {
    in_phases(&[Phase { tasks, run: &task }]);
}

/// Tasks of which a job has others before or after.
#[derive(Clone, Copy)]
pub(crate) struct Phase<'a> {
    /// How many.
    pub tasks: usize,
    /// Runs one, by its number.
    pub run: &'a (dyn Fn(usize) + Sync),
}

/// Runs one phase after the other as [`for_each`] does its tasks: none begins before all of the phase before are done. Nobody
/// leaves the job in between, so that this takes a fraction of what a job for each phase would.
///
/// # Panics
/// When a task does, with what it said; tasks of later phases are left out then, and of its own if that is not the first.
pub(crate) fn in_phases(phases: &[Phase<'_>]) {
    let most = phases.iter().map(|phase| phase.tasks).max().unwrap_or(0);
    if most <= 1 || threads() == 1 {
        phases.iter().for_each(|phase| (0..phase.tasks).for_each(phase.run));
        return;
    }
    // More helpers than tasks would be woken for nothing.
    let helpers = (threads() - 1).min(most - 1);
    with_team(|team| team.run(Job::new(phases, helpers)));
}

static TEAM: OnceLock<Team> = OnceLock::new();

thread_local! {
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
    static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) };
    static OWN: RefCell<Option<Rc<Team>>> = const { RefCell::new(None) };
}

/// Gives `f` the team of this thread: its own, or the common one.
fn with_team<T>(f: impl FnOnce(&Team) -> T) -> T {
    match OWN.with_borrow(Option::clone) {
        Some(own) => f(&own),
        None => {
            f(TEAM.get_or_init(|| Team::start(thread::available_parallelism().map_or(1, NonZeroUsize::get))))
        }
    }
}

struct RestoreTeam(Option<Rc<Team>>);

impl Drop for RestoreTeam {
    fn drop(&mut self) {
        // Outside the cell, as it waits for helpers.
        drop(OWN.replace(self.0.take()));
    }
}

struct Restore(usize);

impl Drop for Restore {
    fn drop(&mut self) {
        LIMIT.set(self.0);
    }
}

/// State of the team in one word: how many helpers are in the job, whether it is open to more, and its number.
const OPEN: usize = 1 << 16;
const HELPERS: usize = OPEN - 1;
const NUMBER: usize = OPEN << 1;

struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Who has the team.
    lead: Mutex<()>,
}

struct Shared {
    state: AtomicUsize,
    /// The team is no more.
    over: AtomicBool,
    job: UnsafeCell<Option<&'static Job<'static>>>,
    parked: Vec<AtomicBool>,
}

// SAFETY: `job` is written by the holder of `lead` while the state is closed and without helpers, and read by helpers that
// entered while it was open: the state's atomic changes order both.
unsafe impl Sync for Shared {}

impl Team {
    fn start(threads: usize) -> Self {
        let count = threads.clamp(1, HELPERS) - 1;
        let shared = Arc::new(Shared {
            state: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            parked: (0..count).map(|_| AtomicBool::new(false)).collect(),
        });
        let helpers = (0..count)
            .map_while(|i| {
                let named = thread::Builder::new().name(format!("compute-{}", i + 1));
                let shared = Arc::clone(&shared);
                // A system that gives no more threads gets fewer helpers; those there are keep their numbers.
                named.spawn(move || help(&shared, i)).ok()
            })
            .collect();
        Self { shared, helpers, lead: Mutex::new(()) }
    }

    fn size(&self) -> usize {
        self.helpers.len() + 1
    }

    fn run(&self, job: Job<'_>) {
        let lead = match self.lead.try_lock() {
            Ok(lead) => lead,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                job.work();
                job.end();
                return;
            }
        };
        let helpers = job.places();
        // SAFETY: only the lifetime is changed. Helpers enter while the state is open, and this function closes it and waits
        // until all have left before the job's lifetime ends; nothing in between unwinds.
        let shared_job: &'static Job<'static> =
            unsafe { std::mem::transmute::<&Job<'_>, &'static Job<'static>>(&job) };
        // SAFETY: this thread leads, the state is closed and no helper is inside.
        unsafe { *self.shared.job.get() = Some(shared_job) };
        let number = self.shared.state.load(Ordering::Relaxed) & !(NUMBER - 1);
        self.shared.state.store(number.wrapping_add(NUMBER) | OPEN, Ordering::SeqCst);
        for (helper, parked) in self.helpers.iter().zip(&self.shared.parked).take(helpers) {
            if parked.load(Ordering::SeqCst) {
                helper.thread().unpark();
            }
        }
        job.work();
        self.shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        wait_until(|| self.shared.state.load(Ordering::Acquire) & HELPERS == 0);
        // SAFETY: as above: closed, and no helper inside.
        unsafe { *self.shared.job.get() = None };
        drop(lead);
        job.end();
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper catches what its tasks panic with.
            let _ = helper.join();
        }
    }
}

/// Waits for threads that are at work.
fn wait_until(is_over: impl Fn() -> bool) {
    let mut looks = 0u32;
    while !is_over() {
        looks = looks.wrapping_add(1);
        if looks >= SPINS_ALONE && looks.is_multiple_of(SPINS_A_LOOK) {
            thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

/// A helper's life.
fn help(shared: &Shared, index: usize) {
    let mut seen = 0;
    while let Some(state) = wait_for_job(shared, index, seen) {
        seen = state & !(NUMBER - 1);
        let entered =
            shared.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if !entered {
            // Another helper came or went: look again, unless the job is over.
            seen = seen.wrapping_sub(NUMBER);
            continue;
        }
        // SAFETY: this helper has entered an open state, so the job stays until it has left.
        if let Some(job) = unsafe { *shared.job.get() }
            && job.take_place()
        {
            job.work();
        }
        shared.state.fetch_sub(1, Ordering::Release);
    }
}

/// The state as soon as it is open under another number than `seen`; `None` when the team is no more.
fn wait_for_job(shared: &Shared, index: usize, seen: usize) -> Option<usize> {
    let mut looks = 0u32;
    let mut since = Instant::now();
    let is_new = |state: usize| state & OPEN > 0 && state & !(NUMBER - 1) != seen;
    loop {
        let state = shared.state.load(Ordering::Acquire);
        if is_new(state) {
            return Some(state);
        }
        looks += 1;
        if !looks.is_multiple_of(SPINS_A_LOOK) {
            std::hint::spin_loop();
            continue;
        }
        if shared.over.load(Ordering::SeqCst) {
            return None;
        }
        if since.elapsed() < SPIN {
            continue;
        }
        shared.parked[index].store(true, Ordering::SeqCst);
        // Whoever opened the state before it could see this helper parked is seen here.
        // An end that comes after the look above has left a token: the helper does not stay parked.
        if !is_new(shared.state.load(Ordering::SeqCst)) {
            thread::park();
        }
        shared.parked[index].store(false, Ordering::SeqCst);
        since = Instant::now();
    }
}
