//! The desk before a device: jobs come in, batches go out, and while one batch runs the next is made ready.
//!
//! The device's thread takes its batch here. A second thread looks in every tick while the device is busy, puts what has
//! come into the queues, and picks the next batch, so that a device with more to do than one batch holds finds it ready.
//! Nobody is woken for a request that comes meanwhile. A batch that left nobody behind is picked again when the device
//! comes for it, with those who came since. Why so: ADR 12.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc;

use crate::batch_policy::BatchLimits;
use crate::row_gather::{EmbedJob, RequestRow, RowGather};
use crate::scheduler::{Commit, PickedBatch, Row, Scheduler};
use crate::status::Status;
use crate::{EmbedError, StartError};

/// What waits for one device.
pub(crate) struct Desk {
    queue: Mutex<Queue>,
    pace: Mutex<Pace>,
    changed: Condvar,
    status: Arc<Status>,
}

struct Queue {
    inbox: mpsc::Receiver<EmbedJob>,
    scheduler: Scheduler<RequestRow>,
    ready: Option<PickedBatch<RequestRow>>,
    departures_seen: u64,
}

/// What the device is doing, for whoever makes batches ready.
#[derive(Debug, Default)]
struct Pace {
    is_running: bool,
    is_over: bool,
    runs: u64,
    /// Nobody makes batches ready until the next run.
    is_parked: bool,
}

impl Desk {
    /// A desk where nothing waits.
    pub(crate) fn new(inbox: mpsc::Receiver<EmbedJob>, limits: BatchLimits, status: Arc<Status>) -> Self {
        let scheduler = Scheduler::new(limits);
        Self {
            queue: Mutex::new(Queue { inbox, scheduler, ready: None, departures_seen: 0 }),
            pace: Mutex::default(),
            changed: Condvar::new(),
            status,
        }
    }

    /// Starts the thread that looks in every `tick`; it ends when [`close`](Self::close) is called.
    pub(crate) fn start_ticking(self: &Arc<Self>, tick: Duration) -> Result<(), StartError> {
        let desk = Arc::clone(self);
        let started = thread::Builder::new().name("queue".to_owned()).spawn(move || desk.tick(tick));
        started.map(drop).map_err(|error| StartError::Thread { purpose: "queue", reason: error.to_string() })
    }

    /// The next batch, at once when a row waits; `None` when all senders are gone, or the engine is aborted.
    pub(crate) fn next_batch(&self) -> Option<PickedBatch<RequestRow>> {
        let mut queue = self.queue.lock();
        let batch = loop {
            if self.status.is_aborted() {
                return None;
            }
            if queue.is_empty() {
                self.pace.lock().is_running = false;
                let job = queue.inbox.blocking_recv()?;
                queue.accept(job);
            }
            if let Some(batch) = queue.take(&self.status) {
                break batch;
            }
        };
        let is_left_behind = !queue.scheduler.is_empty();
        drop(queue);
        self.begin(is_left_behind);
        (!self.status.is_aborted()).then_some(batch)
    }

    /// Takes note of what became of a batch.
    pub(crate) fn commit(&self, commit: Commit<RequestRow>) {
        self.queue.lock().scheduler.commit(commit);
    }

    /// Answers all that wait or still come with `error`, until all senders are gone or know.
    pub(crate) fn close(&self, error: &EmbedError) {
        {
            let mut pace = self.pace.lock();
            (pace.is_running, pace.is_over) = (false, true);
            self.changed.notify_all();
        }
        let mut queue = self.queue.lock();
        queue.inbox.close();
        if let Some(ready) = queue.ready.take() {
            queue.scheduler.put_back(ready);
        }
        for row in queue.scheduler.drain() {
            row.fail(error.clone());
        }
        while let Some(job) = queue.inbox.blocking_recv() {
            // A client that has left is not owed anything.
            let _ = job.reply.send(Err(error.clone()));
        }
    }

    fn begin(&self, is_left_behind: bool) {
        let mut pace = self.pace.lock();
        pace.is_running = true;
        pace.runs += 1;
        if is_left_behind || pace.is_parked {
            self.changed.notify_all();
        }
    }

    fn tick(&self, tick: Duration) {
        let mut seen = 0;
        let mut pace = self.pace.lock();
        while !pace.is_over {
            if !pace.is_running && pace.runs == seen {
                pace.is_parked = true;
                self.changed.wait(&mut pace);
                pace.is_parked = false;
                continue;
            }
            seen = pace.runs;
            if pace.is_running {
                drop(pace);
                self.queue.lock().make_ready(&self.status);
                pace = self.pace.lock();
                if pace.is_over || pace.runs != seen {
                    continue;
                }
            }
            self.changed.wait_for(&mut pace, tick);
        }
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.ready.is_none() && self.scheduler.is_empty()
    }

    /// The batch that is ready, or one that is picked now; `None` when nobody wants any row.
    fn take(&mut self, status: &Status) -> Option<PickedBatch<RequestRow>> {
        let is_stale = self.receive(status);
        let mut batch = match self.ready.take() {
            Some(ready) if ready.left_behind || !is_stale => ready,
            Some(ready) => {
                self.scheduler.put_back(ready);
                self.scheduler.next_batch(Instant::now())?
            }
            None => self.scheduler.next_batch(Instant::now())?,
        };
        batch.rows.retain(|picked| !picked.row.is_cancelled());
        (!batch.rows.is_empty()).then_some(batch)
    }

    /// Picks the next batch anew, with those who have come since.
    fn make_ready(&mut self, status: &Status) {
        self.receive(status);
        if let Some(ready) = self.ready.take() {
            self.scheduler.put_back(ready);
        }
        self.ready = self.scheduler.next_batch(Instant::now());
    }

    /// Takes in what has come and drops whom nobody waits for; says whether the queues have changed.
    fn receive(&mut self, status: &Status) -> bool {
        let mut has_changed = false;
        for _ in 0..self.inbox.max_capacity() {
            let Ok(job) = self.inbox.try_recv() else { break };
            self.accept(job);
            has_changed = true;
        }
        let departures = status.departures();
        if std::mem::replace(&mut self.departures_seen, departures) != departures {
            has_changed |= self.scheduler.drop_cancelled() > 0;
        }
        has_changed
    }

    fn accept(&mut self, job: EmbedJob) {
        let submitted = job.submitted;
        for row in RowGather::split(job) {
            let Err(row) = self.scheduler.enqueue(row, submitted) else { continue };
            // Admission bounds the rows of those who wait; what is above are rows of those who left.
            self.scheduler.drop_cancelled();
            if let Err(row) = self.scheduler.enqueue(row, submitted) {
                row.fail(EmbedError::QueueFull { limit: self.scheduler.len() });
            }
        }
    }
}
