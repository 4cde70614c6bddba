//! Builds the runner on the owner thread, and builds it again when it was lost.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;

use crate::runner::RunError;
use crate::status::Status;

/// How often a lost runner is built before the engine gives up.
const MAX_REBUILD_ATTEMPTS: u32 = 3;
/// Pause before the second attempt; it doubles with each further one.
const REBUILD_PAUSE: Duration = Duration::from_millis(50);

/// Builds runners of the kind `R`.
type Factory<R> = Box<dyn FnMut() -> Result<Box<R>, RunError> + Send>;

/// A factory whose panics are errors.
pub(crate) struct RunnerBuilder<R: ?Sized> {
    factory: Factory<R>,
    status: Arc<Status>,
    restarts: IntCounter,
}

impl<R: ?Sized> RunnerBuilder<R> {
    /// Wraps `factory`; `restarts` counts the runners that took a lost one's place.
    pub(crate) fn new(factory: Factory<R>, status: Arc<Status>, restarts: IntCounter) -> Self {
        Self { factory, status, restarts }
    }

    /// Builds a runner; tried once, as whoever starts a server wants to know soon.
    pub(crate) fn build(&mut self) -> Result<Box<R>, RunError> {
        catch_unwind(AssertUnwindSafe(|| (self.factory)())).unwrap_or_else(|panic| {
            Err(RunError::Start { reason: format!("it panicked: {}", panic_message(panic.as_ref())) })
        })
    }

    /// Drops `lost`, then builds its successor in up to [`MAX_REBUILD_ATTEMPTS`] attempts.
    pub(crate) fn replace(&mut self, lost: Box<R>) -> Result<Box<R>, RunError> {
        let has_told = self.status.restarting();
        // What it holds must be free before the next one is built; its drop may panic too.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(lost)));
        let mut attempt = 1;
        loop {
            match self.build() {
                Ok(runner) => {
                    self.restarts.inc();
                    if has_told {
                        self.status.restarted();
                    }
                    return Ok(runner);
                }
                Err(error) if attempt == MAX_REBUILD_ATTEMPTS || self.status.is_aborted() => {
                    return Err(error);
                }
                Err(error) => tracing::error!(%error, attempt, "the runner could not be built again"),
            }
            thread::sleep(REBUILD_PAUSE * 2u32.pow(attempt - 1));
            attempt += 1;
        }
    }
}

/// The words of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
