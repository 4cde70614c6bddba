//! One job of a team: tasks that whoever is free takes one by one.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{IN_TASK, Phase, wait_until};

/// Tasks that are handed out one by one.
pub(super) struct Job<'a> {
    phases: &'a [Phase<'a>],
    next: AtomicUsize,
    /// Tasks of all phases but the last that are done.
    done: AtomicUsize,
    /// Helpers that may still join.
    places: AtomicUsize,
    /// What the first task that panicked said.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    has_failed: AtomicBool,
}

/// A task that is taken.
struct Taken<'a> {
    phase: &'a Phase<'a>,
    /// Its number in the phase.
    task: usize,
    /// Tasks of the phases before.
    before: usize,
    is_last_phase: bool,
}

impl<'a> Job<'a> {
    /// What the caller and at most `helpers` helpers take.
    pub(super) fn new(phases: &'a [Phase<'a>], helpers: usize) -> Self {
        Self {
            phases,
            next: 0.into(),
            done: 0.into(),
            places: helpers.into(),
            panic: Mutex::new(None),
            has_failed: false.into(),
        }
    }

    /// Takes tasks until none is left. After a panic, what is left of the first phase is done, but no task of a later one that has
    /// not begun: it might count on what is missing.
    pub(super) fn work(&self) {
        IN_TASK.set(true);
        while let Some(Taken { phase, task, before, is_last_phase }) = self.take() {
            // Whoever holds one of them is at work.
            wait_until(|| self.done.load(Ordering::Acquire) >= before);
            if before == 0 || !self.has_failed.load(Ordering::Relaxed) {
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (phase.run)(task)));
                if let Err(said) = done {
                    self.keep(said);
                }
            }
            if !is_last_phase {
                self.done.fetch_add(1, Ordering::Release);
            }
        }
        IN_TASK.set(false);
    }

    /// The next task that nobody has taken.
    fn take(&self) -> Option<Taken<'a>> {
        let mut task = self.next.fetch_add(1, Ordering::Relaxed);
        let mut before = 0;
        for (index, phase) in self.phases.iter().enumerate() {
            if task < phase.tasks {
                return Some(Taken { phase, task, before, is_last_phase: index + 1 == self.phases.len() });
            }
            task -= phase.tasks;
            before += phase.tasks;
        }
        None
    }

    /// Keeps the first panic. Others are forgotten, not dropped: what they carry might panic too, and this must not unwind
    /// while others are in the job.
    fn keep(&self, said: Box<dyn Any + Send>) {
        self.has_failed.store(true, Ordering::Relaxed);
        let mut kept = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            *kept = Some(said);
        } else {
            std::mem::forget(said);
        }
    }

    /// Goes on with what a task's panic began, when all have left the job.
    pub(super) fn end(self) {
        if let Some(said) = self.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            std::panic::resume_unwind(said);
        }
    }

    /// Lets a helper in while there is room.
    pub(super) fn take_place(&self) -> bool {
        self.places.try_update(Ordering::Relaxed, Ordering::Relaxed, |p| p.checked_sub(1)).is_ok()
    }

    /// How many helpers may still come in.
    pub(super) fn places(&self) -> usize {
        self.places.load(Ordering::Relaxed)
    }
}
