//! The engine's phase: one value, watched by whoever waits for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

use crate::{Health, StartError};

/// Where the engine is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The runner is being built, or the probe is under way.
    Starting,
    /// A probe came back.
    Ready,
    /// So many runners were lost and are being built again.
    Restarting(usize),
    /// No runner any more.
    Failed(StartError),
    /// New requests are refused; those in flight are served.
    Stopping,
}

/// What the engine's front and the device's thread know of each other.
#[derive(Debug)]
pub(crate) struct Status {
    phase: watch::Sender<Phase>,
    /// Clients that have left with rows at a device: some queued rows are nobody's.
    departures: AtomicU64,
    /// The worker shall answer what is queued with `ShuttingDown` and end.
    pub(crate) abort: AtomicBool,
}

impl Status {
    /// The status of an engine that starts.
    pub(crate) fn starting() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Starting),
            departures: AtomicU64::new(0),
            abort: AtomicBool::new(false),
        }
    }

    /// The phase as others may know it.
    pub(crate) fn health(&self) -> Health {
        match *self.phase.borrow() {
            Phase::Starting => Health::Starting,
            Phase::Ready => Health::Ready,
            Phase::Restarting(_) | Phase::Failed(_) | Phase::Stopping => Health::Unavailable,
        }
    }

    /// Whether new requests are refused because the engine stops.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.phase.borrow() == Phase::Stopping
    }

    /// Whether the worker shall end without serving what waits.
    pub(crate) fn is_aborted(&self) -> bool {
        self.abort.load(Ordering::Acquire)
    }

    /// A client has left with rows at a device.
    pub(crate) fn client_left(&self) {
        self.departures.fetch_add(1, Ordering::Release);
    }

    /// How many clients have left so.
    pub(crate) fn departures(&self) -> u64 {
        self.departures.load(Ordering::Acquire)
    }

    /// The probe came back.
    pub(crate) fn probe_succeeded(&self) {
        self.change(Phase::Ready, |phase| *phase == Phase::Starting);
    }

    /// A runner is lost. Before the probe came back the phase stays: the probe decides. Says whether it changed.
    pub(crate) fn restarting(&self) -> bool {
        self.phase.send_if_modified(|phase| {
            *phase = match phase {
                Phase::Ready => Phase::Restarting(1),
                Phase::Restarting(lost) => Phase::Restarting(*lost + 1),
                _ => return false,
            };
            true
        })
    }

    /// A runner whose loss changed the phase was replaced.
    pub(crate) fn restarted(&self) {
        self.phase.send_if_modified(|phase| {
            *phase = match phase {
                Phase::Restarting(0 | 1) => Phase::Ready,
                Phase::Restarting(lost) => Phase::Restarting(*lost - 1),
                _ => return false,
            };
            true
        });
    }

    /// There is no runner, or it is of no use. The first reason stays.
    pub(crate) fn failed(&self, why: StartError) {
        self.change(Phase::Failed(why), |phase| !matches!(phase, Phase::Failed(_) | Phase::Stopping));
    }

    /// No new requests from now on.
    pub(crate) fn stopping(&self) {
        self.change(Phase::Stopping, |_| true);
    }

    /// Waits until the probe came back or it is clear that none will.
    pub(crate) async fn ready(&self) -> Result<(), StartError> {
        let mut phase = self.phase.subscribe();
        match phase.wait_for(|phase| *phase != Phase::Starting).await.as_deref() {
            Ok(Phase::Failed(why)) => Err(why.clone()),
            Ok(Phase::Stopping) | Err(_) => Err(StartError::Stopped),
            Ok(Phase::Starting | Phase::Ready | Phase::Restarting(_)) => Ok(()),
        }
    }

    fn change(&self, to: Phase, when: impl FnOnce(&Phase) -> bool) -> bool {
        self.phase.send_if_modified(|phase| {
            let changes = when(phase);
            if changes {
                *phase = to;
            }
            changes
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopping_engine_never_becomes_ready_again() {
        let status = Status::starting();
        status.stopping();
        status.probe_succeeded();
        status.restarted();
        assert!(status.is_stopping());
        assert_eq!(status.health(), Health::Unavailable);
    }

    #[test]
    fn the_first_reason_of_a_failure_is_kept() {
        let status = Status::starting();
        status.failed(StartError::NoRuntime);
        status.failed(StartError::Stopped);
        status.probe_succeeded();
        assert_eq!(*status.phase.borrow(), Phase::Failed(StartError::NoRuntime));
    }

    #[test]
    fn a_runner_that_was_replaced_is_ready_without_a_second_probe() {
        let status = Status::starting();
        assert!(!status.restarting());
        assert_eq!(status.health(), Health::Starting);
        status.probe_succeeded();
        assert!(status.restarting() && status.restarting(), "two instances");
        status.restarted();
        assert_eq!(status.health(), Health::Unavailable);
        status.restarted();
        assert_eq!(status.health(), Health::Ready);
    }
}
