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

    /// Takes note of what became of a batch. Rows that were deferred are older than those of the batch that is ready, which is
    /// picked anew then.
    pub(crate) fn commit(&self, commit: Commit<RequestRow>) {
        let mut queue = self.queue.lock();
        let is_overtaken = !commit.deferred.is_empty();
        queue.scheduler.commit(commit);
        if is_overtaken {
            queue.unready();
        }
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
        queue.unready();
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
        batch.take_at(Instant::now());
        (!batch.rows.is_empty()).then_some(batch)
    }

    /// Picks the next batch anew, with those who have come since.
    fn make_ready(&mut self, status: &Status) {
        self.receive(status);
        self.unready();
        self.ready = self.scheduler.next_batch(Instant::now());
    }

    /// Puts the rows of the batch that is ready back where they were.
    fn unready(&mut self) {
        if let Some(ready) = self.ready.take() {
            self.scheduler.put_back(ready);
        }
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use polylora_adapters::{Digest, LoadedAdapter};
    use polylora_kernels::extent::{ExtentLayout, HostExtent};
    use tokio::sync::oneshot;

    use super::*;
    use crate::row_gather::JobReply;
    use crate::traffic::{Traffic, WaitingRows};
    use crate::{Batching, RowOutput};

    type Answer = oneshot::Receiver<Result<JobReply, EmbedError>>;

    /// A desk whose batches have at most two rows, and the way to it.
    fn desk() -> (Desk, mpsc::Sender<EmbedJob>) {
        let (jobs, inbox) = mpsc::channel(16);
        let some = NonZeroUsize::new(100).unwrap();
        let limits = BatchLimits {
            max_batch_tokens: some,
            max_batch_rows: NonZeroUsize::new(2).unwrap(),
            max_waiting_rows: some,
            batching: Batching::Mixed,
        };
        (Desk::new(inbox, limits, Arc::new(Status::starting())), jobs)
    }

    /// Sends a row of the token `id` for the adapter of that number; it waits as long as the answer is held.
    fn send(jobs: &mpsc::Sender<EmbedJob>, id: u32, adapter: Option<u8>) -> Answer {
        let (reply, answer) = oneshot::channel();
        let extent = || Arc::new(HostExtent::zeroed(ExtentLayout::new(vec![], |_| 0)));
        let job = EmbedJob {
            rows: vec![Arc::from([id])],
            claims: vec![],
            adapter: adapter.map(|number| LoadedAdapter {
                digest: Digest([number; 32]),
                extent: extent(),
                chat: None,
            }),
            output: RowOutput::default(),
            waiting: WaitingRows::counted(&Traffic::new().domain(None), 1),
            submitted: Instant::now(),
            reply,
        };
        assert!(jobs.try_send(job).is_ok());
        answer
    }

    fn make_ready(desk: &Desk) {
        desk.queue.lock().make_ready(&desk.status);
    }

    fn ids(batch: &PickedBatch<RequestRow>) -> Vec<u32> {
        batch.rows.iter().map(|picked| picked.row.row.ids[0]).collect()
    }

    #[test]
    fn a_deferred_row_goes_before_the_younger_rows_of_a_batch_that_is_ready() {
        let (desk, jobs) = desk();
        let _answers = [1, 2].map(|id| send(&jobs, id, Some(id as u8)));
        let mut first = desk.next_batch().unwrap();
        assert_eq!(ids(&first), [1, 2]);
        let _younger = [3, 4, 5].map(|id| send(&jobs, id, None));
        make_ready(&desk);
        assert_eq!(desk.queue.lock().ready.as_ref().map(ids), Some(vec![3, 4]));
        let deferred = vec![first.rows.pop().unwrap()];
        desk.commit(Commit { deferred, adapters_placed: 1 });
        assert_eq!(ids(&desk.next_batch().unwrap()), [2, 3]);
        assert_eq!(ids(&desk.next_batch().unwrap()), [4, 5]);
    }

    #[test]
    fn a_row_waits_until_its_batch_is_taken_not_until_it_is_ready() {
        let (desk, jobs) = desk();
        let sent = Instant::now();
        let _answers = [1, 2, 3].map(|id| send(&jobs, id, None));
        let all_sent = sent.elapsed();
        make_ready(&desk);
        thread::sleep(Duration::from_millis(5));
        let least = sent.elapsed() - all_sent;
        let batch = desk.next_batch().unwrap();
        assert!(batch.rows.iter().all(|picked| picked.waited >= least), "{:?}, {least:?}", batch.rows);
    }

    #[test]
    fn a_batch_that_is_ready_is_taken_as_it_is_when_nothing_was_deferred() {
        let (desk, jobs) = desk();
        let _answers = [1, 2, 3].map(|id| send(&jobs, id, None));
        make_ready(&desk);
        desk.commit(Commit { deferred: vec![], adapters_placed: 0 });
        assert_eq!(desk.queue.lock().ready.as_ref().map(ids), Some(vec![1, 2]));
        assert_eq!(ids(&desk.next_batch().unwrap()), [1, 2]);
    }
}
