//! What an engine did lately: the windows of [`recent`](crate::recent) with the clock that they go by.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::recent::{LatencyWindow, WorkWindow};
use crate::traffic::Traffic;
use crate::{LatencySnapshot, Snapshot};

/// Work and latencies of an engine's last seconds and requests.
#[derive(Debug)]
pub(crate) struct Lately {
    began: Instant,
    work: Mutex<WorkWindow>,
    latencies: Mutex<LatencyWindow>,
}

impl Lately {
    /// Nothing so far.
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), work: Mutex::default(), latencies: Mutex::default() }
    }

    /// Rows and tokens were computed.
    pub(crate) fn worked(&self, rows: usize, tokens: usize) {
        self.work.lock().add(self.began.elapsed(), rows, tokens);
    }

    /// A request was answered.
    pub(crate) fn answered(&self, took: Duration) {
        self.latencies.lock().add(took);
    }

    /// It with `traffic`; device, mode and instances are the caller's to tell.
    pub(crate) fn snapshot(&self, traffic: &Traffic) -> Snapshot {
        let rates = self.work.lock().rates(self.began.elapsed());
        let latency = self.latencies.lock().percentiles([50, 99]);
        Snapshot {
            domains: traffic.figures(),
            running_requests: traffic.running(),
            waiting_requests: traffic.waiting(),
            rows_per_second: rates.rows,
            tokens_per_second: rates.tokens,
            latency: latency.map(|[p50, p99]| LatencySnapshot { p50, p99 }),
            ..Snapshot::default()
        }
    }
}
