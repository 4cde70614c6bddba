//! One job of a team: tasks that whoever is free takes one by one.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::IN_TASK;

/// Tasks that are handed out one by one.
pub(super) struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
    /// Helpers that may still join.
    places: AtomicUsize,
    /// What the first task that panicked said.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl<'a> Job<'a> {
    /// `tasks` tasks that the caller and at most `helpers` helpers take.
    pub(super) fn new(tasks: usize, helpers: usize, task: &'a (dyn Fn(usize) + Sync)) -> Self {
        Self { task, tasks, next: 0.into(), places: helpers.into(), panic: Mutex::new(None) }
    }

    /// Takes tasks until none is left.
    pub(super) fn work(&self) {
        IN_TASK.set(true);
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.tasks {
                break;
            }
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (self.task)(index)));
            if let Err(said) = done {
                self.keep(said);
            }
        }
        IN_TASK.set(false);
    }

    /// Keeps the first panic. Others are forgotten, not dropped: what they carry might panic too, and this must not unwind
    /// while others are in the job.
    fn keep(&self, said: Box<dyn Any + Send>) {
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
