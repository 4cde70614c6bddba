//! Brings the rows of one request together again, however many batches they went through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use polylora_adapters::LoadedAdapter;
use tokio::sync::oneshot;

use crate::memo::Claim;
use crate::runner::BatchRow;
use crate::scheduler::{Domain, Row};
use crate::traffic::{DomainTraffic, RunningRequest, WaitingRows};
use crate::{EmbedError, RowOutput};

/// The rows of one request, on their way to the worker.
#[derive(Debug)]
pub(crate) struct EmbedJob {
    /// Token ids of each input; never empty, none of them empty.
    pub(crate) rows: Vec<Arc<[u32]>>,
    /// The memo's claims on them, one for each row, or none at all.
    pub(crate) claims: Vec<Claim>,
    /// The adapter of all of them.
    pub(crate) adapter: Option<LoadedAdapter>,
    /// What each of them becomes.
    pub(crate) output: RowOutput,
    /// Counts them while they wait.
    pub(crate) waiting: WaitingRows,
    /// When the rows were ready for the device.
    pub(crate) submitted: Instant,
    /// Where the answer goes.
    pub(crate) reply: oneshot::Sender<Result<JobReply, EmbedError>>,
}

/// The worker's answer to an [`EmbedJob`].
#[derive(Debug)]
pub(crate) struct JobReply {
    /// One embedding per row.
    pub(crate) embeddings: Vec<Vec<f32>>,
    /// Time not spent in a batch.
    pub(crate) queue: Duration,
    /// Time of all batches that held one of the rows.
    pub(crate) compute: Duration,
}

/// One request's results so far. Lives on the threads of a device.
#[derive(Debug)]
pub(crate) struct RowGather {
    reply: Option<oneshot::Sender<Result<JobReply, EmbedError>>>,
    embeddings: Vec<Option<Vec<f32>>>,
    missing: usize,
    submitted: Instant,
    compute: Duration,
    last_batch: Option<u64>,
    traffic: Arc<DomainTraffic>,
    running: Option<RunningRequest>,
}

/// A row that knows whose it is.
#[derive(Debug)]
pub(crate) struct RequestRow {
    /// What the device computes.
    pub(crate) row: BatchRow,
    gather: Arc<Mutex<RowGather>>,
    index: usize,
    waiting: Option<WaitingRows>,
    claim: Option<Claim>,
}

impl RowGather {
    /// Splits a job into rows that share one gather.
    pub(crate) fn split(job: EmbedJob) -> Vec<RequestRow> {
        let gather = Arc::new(Mutex::new(Self {
            reply: Some(job.reply),
            embeddings: vec![None; job.rows.len()],
            missing: job.rows.len(),
            submitted: job.submitted,
            compute: Duration::ZERO,
            last_batch: None,
            traffic: Arc::clone(job.waiting.traffic()),
            running: None,
        }));
        let mut claims = job.claims.into_iter();
        let request_row = |((index, ids), waiting)| RequestRow {
            row: BatchRow { ids, adapter: job.adapter.clone(), output: job.output },
            gather: Arc::clone(&gather),
            index,
            waiting: Some(waiting),
            claim: claims.next(),
        };
        job.rows.into_iter().enumerate().zip(job.waiting.split()).map(request_row).collect()
    }

    /// Whether the request was answered or its client has left.
    pub(crate) fn is_over(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn answer(&mut self, answer: Result<JobReply, EmbedError>) {
        // Before the answer: who has one finds himself counted.
        self.running = None;
        if let Some(reply) = self.reply.take() {
            // A client that has left is not owed anything.
            let _ = reply.send(answer);
        }
    }
}

impl RequestRow {
    /// The row is being computed: it waits no longer, its request runs.
    pub(crate) fn start(&mut self) {
        self.waiting = None;
        let mut gather = self.gather.lock();
        if gather.running.is_none() && gather.reply.is_some() {
            gather.running = Some(gather.traffic.request_runs());
        }
    }

    /// The row goes back to its queue.
    pub(crate) fn wait_again(&mut self) {
        let traffic = Arc::clone(&self.gather.lock().traffic);
        traffic.rows_wait(1);
        self.waiting = Some(WaitingRows::counted(&traffic, 1));
    }

    /// Adds the time of the batch numbered `batch` to the request, once however many of its rows it held.
    pub(crate) fn count_batch(&self, batch: u64, took: Duration) {
        let mut gather = self.gather.lock();
        if gather.last_batch.replace(batch) != Some(batch) {
            gather.compute += took;
        }
    }

    /// Brings the row's embedding, to those who wait for the same row at once; the last one missing answers the request.
    pub(crate) fn bring(self, embedding: Vec<f32>) {
        if let Some(claim) = self.claim {
            claim.keep(&embedding);
        }
        let mut gather = self.gather.lock();
        let was = gather.embeddings[self.index].replace(embedding);
        assert!(was.is_none(), "a row was computed twice");
        gather.missing -= 1;
        if gather.missing == 0 {
            let embeddings = std::mem::take(&mut gather.embeddings).into_iter().flatten().collect();
            let compute = gather.compute;
            let queue = gather.submitted.elapsed().saturating_sub(compute);
            gather.answer(Ok(JobReply { embeddings, queue, compute }));
        }
    }

    /// Fails the request and those who wait for the same row; its other rows are cancelled by that.
    pub(crate) fn fail(self, error: EmbedError) {
        if let Some(claim) = self.claim {
            claim.fail(error.clone());
        }
        self.gather.lock().answer(Err(error));
    }
}

impl Row for RequestRow {
    fn domain(&self) -> Domain {
        self.row.adapter.as_ref().map_or(Domain::Base, |adapter| Domain::Adapter(adapter.digest))
    }

    fn tokens(&self) -> usize {
        self.row.ids.len()
    }

    fn is_cancelled(&self) -> bool {
        self.gather.lock().is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Traffic;

    fn job(rows: usize) -> (Vec<RequestRow>, oneshot::Receiver<Result<JobReply, EmbedError>>) {
        let (reply, answer) = oneshot::channel();
        let waiting = WaitingRows::counted(&Traffic::new().domain(None), rows);
        let ids: Vec<Arc<[u32]>> = (0..rows).map(|i| Arc::from([i as u32])).collect();
        let (output, submitted) = (RowOutput::default(), Instant::now());
        let job = EmbedJob { rows: ids, claims: vec![], adapter: None, output, waiting, submitted, reply };
        (RowGather::split(job), answer)
    }

    #[test]
    fn rows_that_come_in_any_order_are_answered_in_the_order_of_the_inputs() {
        let (rows, mut answer) = job(3);
        for row in rows.into_iter().rev() {
            assert!(answer.try_recv().is_err());
            let value = row.row.ids[0] as f32;
            row.bring(vec![value]);
        }
        let embeddings = answer.try_recv().unwrap().unwrap().embeddings;
        assert_eq!(embeddings, [[0.0], [1.0], [2.0]]);
    }

    #[test]
    fn one_batch_counts_once_for_a_request() {
        let (rows, mut answer) = job(3);
        rows[0].count_batch(7, Duration::from_secs(2));
        rows[1].count_batch(7, Duration::from_secs(2));
        rows[2].count_batch(8, Duration::from_secs(3));
        rows.into_iter().for_each(|row| row.bring(vec![]));
        assert_eq!(answer.try_recv().unwrap().unwrap().compute, Duration::from_secs(5));
    }

    #[test]
    fn a_failed_row_answers_at_once_and_cancels_the_others() {
        let (mut rows, mut answer) = job(2);
        let last = rows.pop().unwrap();
        rows.pop().unwrap().fail(EmbedError::NoInputs);
        assert_eq!(answer.try_recv().unwrap().unwrap_err(), EmbedError::NoInputs);
        assert!(last.is_cancelled());
        last.bring(vec![]);
    }

    #[test]
    fn a_client_that_left_cancels_its_rows() {
        let (rows, answer) = job(1);
        assert!(!rows[0].is_cancelled());
        drop(answer);
        assert!(rows[0].is_cancelled());
    }
}
