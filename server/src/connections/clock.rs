//! What a connection is waiting for, and until when.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::time::Instant;

use super::{ConnectionRules, Late};

/// What a connection is doing, shared between its stream and the requests on it.
#[derive(Debug)]
pub(super) struct ConnectionClock {
    rules: ConnectionRules,
    stage: Mutex<Stage>,
    reader: Mutex<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A request has begun to come in, or is the first and due.
    Head { since: Instant },
    /// The server is to answer, or its client to read.
    Serving,
    /// Everything is answered, though the last of it may still be on its way out.
    Idle { since: Instant },
}

impl ConnectionClock {
    /// The clock of a connection that has just been opened: its first request is due.
    pub(super) fn new(rules: ConnectionRules) -> Self {
        Self { rules, stage: Mutex::new(Stage::Head { since: Instant::now() }), reader: Mutex::default() }
    }

    /// Bytes came in.
    pub(super) fn bytes_came(&self) {
        let mut stage = self.stage();
        if let Stage::Idle { .. } = *stage {
            *stage = Stage::Head { since: Instant::now() };
        }
    }

    /// Bytes went out: a client that takes its reply bit by bit is not idle.
    pub(super) fn bytes_went(&self) {
        let mut stage = self.stage();
        if let Stage::Idle { .. } = *stage {
            *stage = Stage::Idle { since: Instant::now() };
        }
    }

    /// A whole head is there; until the value is dropped no time runs for the client.
    pub(super) fn serving(self: &Arc<Self>) -> Serving {
        *self.stage() = Stage::Serving;
        Serving(Arc::clone(self))
    }

    /// Until when bytes must come, and what it is called when they do not.
    pub(super) fn deadline(&self) -> Option<(Instant, Late)> {
        match *self.stage() {
            Stage::Head { since } => Some((since + self.rules.header_read_timeout, Late::Header)),
            Stage::Idle { since } => Some((since + self.rules.idle_timeout, Late::Idle)),
            Stage::Serving => None,
        }
    }

    /// Somebody waits for bytes and is to look at the deadline again when there is one.
    pub(super) fn wake_when_idle(&self, reader: &Waker) {
        let mut kept = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(reader)) {
            *kept = Some(reader.clone());
        }
    }

    /// Until when a client must read that does not since then.
    pub(super) fn write_deadline(&self, since: Instant) -> Instant {
        since + self.rules.idle_timeout
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Serving(Arc<ConnectionClock>);

impl Drop for Serving {
    fn drop(&mut self) {
        *self.0.stage() = Stage::Idle { since: Instant::now() };
        // Whoever waits for bytes since the request came has no deadline yet.
        let reader = self.0.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_stage_has_its_own_time_and_serving_has_none() {
        let (head, idle) = (Duration::from_secs(10), Duration::from_secs(75));
        let rules = ConnectionRules { max_connections: 1, header_read_timeout: head, idle_timeout: idle };
        let clock = Arc::new(ConnectionClock::new(rules));
        let began = Instant::now();
        let due = |clock: &ConnectionClock| clock.deadline().map(|(at, late)| (at - began, late));
        tokio::time::advance(Duration::from_secs(1)).await;
        // What comes byte by byte gains no time.
        clock.bytes_came();
        assert_eq!(due(&clock), Some((head, Late::Header)));
        let serving = clock.serving();
        tokio::time::advance(Duration::from_secs(1000)).await;
        assert_eq!(due(&clock), None);
        drop(serving);
        assert_eq!(due(&clock), Some((Duration::from_secs(1001) + idle, Late::Idle)));
        tokio::time::advance(Duration::from_secs(5)).await;
        clock.bytes_came();
        assert_eq!(due(&clock), Some((Duration::from_secs(1006) + head, Late::Header)));
    }
}
