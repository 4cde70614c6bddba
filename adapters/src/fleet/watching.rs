//! `--watch`: takes in what changes in the adapters directory, once it has come to rest.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::Fleet;

/// A folder is looked at when nothing has changed for so long: a file that is being written changes all the time.
const REST: Duration = Duration::from_millis(400);
/// But not later than so long after the first change, however busy the directory is.
const LONGEST_UNREST: Duration = Duration::from_secs(5);

/// Why a directory cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// There is none.
    #[error("there is no adapters directory to watch: --watch needs --adapters-dir")]
    NoDirectory,
    /// The system refuses.
    #[error("the adapters directory cannot be watched")]
    System(#[from] notify::Error),
    /// No thread.
    #[error("the thread that watches cannot be started")]
    Thread(#[source] std::io::Error),
}

/// Watches until it is dropped.
pub struct Watcher {
    // Dropped first: its end closes the channel, which ends the thread.
    system: Option<RecommendedWatcher>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches the directory that `fleet` scans.
    ///
    /// # Errors
    /// [`WatchError`].
    pub fn start(fleet: Arc<Fleet>) -> Result<Self, WatchError> {
        let root = fleet.roots.scanned.clone().ok_or(WatchError::NoDirectory)?;
        let (changed, changes): (Sender<()>, Receiver<()>) = channel();
        let mut system = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading an adapter is no change of it.
            if event.is_ok_and(|event| event.kind.is_access()) {
                return;
            }
            // The thread has ended: nobody wants to know.
            let _ = changed.send(());
        })?;
        system.watch(&root, RecursiveMode::Recursive)?;
        let watch = move || {
            while comes_to_rest(&changes) {
                match fleet.rescan() {
                    Ok(adopted) => tracing::debug!(?adopted, "the adapters directory was looked at"),
                    Err(error) => tracing::warn!(%error, "the adapters directory could not be looked at"),
                }
            }
        };
        let thread =
            thread::Builder::new().name("watch".to_owned()).spawn(watch).map_err(WatchError::Thread)?;
        Ok(Self { system: Some(system), thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.system.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}

/// Waits for a change and then for quiet; says whether there may be more.
fn comes_to_rest(changes: &Receiver<()>) -> bool {
    if changes.recv().is_err() {
        return false;
    }
    let began = Instant::now();
    while began.elapsed() < LONGEST_UNREST {
        match changes.recv_timeout(REST) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
    true
}
