//! Which waiting rows go into the next batch: queues by domain, no tensor, no clock, no async.

use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use polylora_adapters::Digest;

use crate::batch_policy::{AdapterCap, BatchBudget, BatchLimits, even_share};
use crate::mode::Batching;

/// What rows of one queue share: the weights that they go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// The base model alone.
    Base,
    /// The adapter with this content digest.
    Adapter(Digest),
}

/// A row as the scheduler sees it.
pub trait Row {
    /// Its queue.
    fn domain(&self) -> Domain;
    /// Its length in tokens.
    fn tokens(&self) -> usize;
    /// Whether nobody waits for it any more.
    fn is_cancelled(&self) -> bool;
}

/// A row with its place in the order of arrival.
#[derive(Debug)]
pub struct Picked<R> {
    /// The row.
    pub row: R,
    /// How long it waited until its batch was picked, or taken when [`PickedBatch::take_at`] says so.
    pub waited: Duration,
    age: u64,
    arrived: Instant,
}

/// The rows of one batch. Rows of one domain are neighbours; the domain with the oldest row comes first, so that a
/// runner that places adapters in the order of the rows defers the youngest.
#[derive(Debug)]
pub struct PickedBatch<R> {
    /// The rows; never empty.
    pub rows: Vec<Picked<R>>,
    /// Sum of their tokens.
    pub tokens: usize,
    /// Whether rows were left waiting when it was picked.
    pub left_behind: bool,
}

impl<R> PickedBatch<R> {
    /// The rows have waited until now: a batch that was made ready waits on until a device takes it.
    pub fn take_at(&mut self, now: Instant) {
        for picked in &mut self.rows {
            picked.waited = now.saturating_duration_since(picked.arrived);
        }
    }
}

/// What became of a batch, for [`Scheduler::commit`].
#[derive(Debug)]
pub struct Commit<R> {
    /// Rows that the device had no place for: they go back to the front of their queues.
    pub deferred: Vec<Picked<R>>,
    /// Distinct adapters that the device placed.
    pub adapters_placed: usize,
}

/// Waiting rows by domain.
///
/// Laws: order within a domain is kept; every batch holds the oldest waiting row, so that a row with k older ones is
/// in one of the next k + 1 batches; a domain gets its part of a batch, counted in tokens, before any domain gets more,
/// and what is left goes to the oldest rows whosever they are; a batch stays within its bounds unless it is a single
/// row, and where more waits than one batch holds, the batches are of one size;
/// [`next_batch`](Self::next_batch) gives a batch whenever a row waits, so that an idle device never does.
/// Why so: ADR 12.
#[derive(Debug)]
pub struct Scheduler<R> {
    limits: BatchLimits,
    cap: AdapterCap,
    queues: BTreeMap<Domain, VecDeque<Picked<R>>>,
    waiting: usize,
    next_age: u64,
}

/// One domain's turns in the batch that is being filled.
struct Turn<R> {
    domain: Domain,
    queue: VecDeque<Picked<R>>,
    share: Vec<Picked<R>>,
    tokens: usize,
}

impl<R: Row> Turn<R> {
    fn waiting_tokens(&self) -> usize {
        self.queue.iter().map(|picked| picked.row.tokens()).sum()
    }
}

impl<R: Row> Scheduler<R> {
    /// An empty scheduler.
    pub fn new(limits: BatchLimits) -> Self {
        Self { limits, cap: AdapterCap::default(), queues: BTreeMap::new(), waiting: 0, next_age: 0 }
    }

    /// Rows that wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether no row waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Puts `row` at the end of its domain's queue.
    ///
    /// # Errors
    /// Gives the row back when `max_waiting_rows` wait already.
    pub fn enqueue(&mut self, row: R, now: Instant) -> Result<(), R> {
        if self.waiting >= self.limits.max_waiting_rows.get() {
            return Err(row);
        }
        let picked = Picked { waited: Duration::ZERO, age: self.next_age, arrived: now, row };
        self.next_age += 1;
        self.waiting += 1;
        self.queues.entry(picked.row.domain()).or_default().push_back(picked);
        Ok(())
    }

    /// The next batch, or `None` when no row waits that anybody still wants.
    pub fn next_batch(&mut self, now: Instant) -> Option<PickedBatch<R>> {
        let mut turns = self.turns();
        let goal = match self.limits.max_batch_rows.get() {
            // A row is a batch: there is nothing to make even, and nothing to count through.
            1 => usize::MAX,
            _ => even_share(turns.iter().map(Turn::waiting_tokens).sum(), &self.limits),
        };
        let mut budget = BatchBudget::new(&self.limits, goal);
        let open = self.fill_parts(&mut turns, &mut budget);
        self.fill_by_age(&mut turns, open, &mut budget);
        let mut rows = Vec::new();
        for turn in turns {
            rows.extend(turn.share);
            if !turn.queue.is_empty() {
                self.queues.insert(turn.domain, turn.queue);
            }
        }
        self.waiting -= rows.len();
        let mut batch = PickedBatch { rows, tokens: budget.tokens_taken(), left_behind: self.waiting > 0 };
        batch.take_at(now);
        (!batch.rows.is_empty()).then_some(batch)
    }

    /// Puts a batch back that was picked and not run, where its rows were.
    pub fn put_back(&mut self, batch: PickedBatch<R>) {
        self.requeue(batch.rows);
    }

    /// Takes note of a batch that is done and puts its deferred rows back where they were.
    pub fn commit(&mut self, commit: Commit<R>) {
        self.cap.learn(commit.adapters_placed, !commit.deferred.is_empty());
        self.requeue(commit.deferred);
    }

    /// Drops every row that nobody waits for and says how many.
    pub fn drop_cancelled(&mut self) -> usize {
        let before = self.waiting;
        self.queues.retain(|_, queue| {
            queue.retain(|picked| !picked.row.is_cancelled());
            !queue.is_empty()
        });
        self.waiting = self.queues.values().map(VecDeque::len).sum();
        before - self.waiting
    }

    /// Gives all waiting rows away, by domain.
    pub fn drain(&mut self) -> Vec<R> {
        self.waiting = 0;
        std::mem::take(&mut self.queues).into_values().flatten().map(|picked| picked.row).collect()
    }

    /// Fills each domain's part of the batch row by row in turn; only a domain's first row may be longer than its part.
    /// Gives the turns that may go on.
    fn fill_parts(&mut self, turns: &mut [Turn<R>], budget: &mut BatchBudget) -> Vec<usize> {
        let part = budget.goal() / turns.len().max(1);
        let mut unfinished: VecDeque<usize> = (0..turns.len()).collect();
        let mut served = Vec::with_capacity(turns.len());
        while let Some(index) = unfinished.pop_front() {
            if budget.is_reached() {
                break;
            }
            let turn = &mut turns[index];
            let next = turn.queue.front().map_or(0, |picked| picked.row.tokens());
            if turn.tokens > 0 && turn.tokens + next > part {
                served.push(index);
            } else if self.take(turn, budget) {
                unfinished.push_back(index);
            }
        }
        served
    }

    /// Fills what the parts left with the oldest rows.
    fn fill_by_age(&mut self, turns: &mut [Turn<R>], open: Vec<usize>, budget: &mut BatchBudget) {
        use std::cmp::Reverse;
        let oldest = |turn: &Turn<R>| turn.queue.front().map(|picked| picked.age);
        let entry = |index: usize, turns: &[Turn<R>]| Some((Reverse(oldest(&turns[index])?), index));
        let mut heads: BinaryHeap<_> = open.into_iter().filter_map(|index| entry(index, turns)).collect();
        while let Some((_, index)) = heads.pop() {
            if budget.is_reached() {
                break;
            }
            if self.take(&mut turns[index], budget) {
                heads.extend(entry(index, turns));
            }
        }
    }

    /// Takes the domain's next row when it fits; a domain whose next row does not is done for this batch: later rows must
    /// not overtake it.
    fn take(&mut self, turn: &mut Turn<R>, budget: &mut BatchBudget) -> bool {
        let fits = turn.queue.front().is_some_and(|next| budget.take(next.row.tokens()));
        if fits {
            turn.share.extend(turn.queue.pop_front());
            turn.tokens += turn.share.last().map_or(0, |picked| picked.row.tokens());
            self.waiting -= drop_cancelled_front(&mut turn.queue);
        }
        fits
    }

    /// Puts rows back by their age.
    fn requeue(&mut self, mut rows: Vec<Picked<R>>) {
        self.waiting += rows.len();
        rows.sort_by_key(|picked| picked.age);
        for picked in rows.into_iter().rev() {
            let queue = self.queues.entry(picked.row.domain()).or_default();
            let at = queue.partition_point(|waiting| waiting.age < picked.age);
            queue.insert(at, picked);
        }
    }

    /// The queues that may bring rows to the next batch, taken out, the one with the oldest row first.
    fn turns(&mut self) -> Vec<Turn<R>> {
        let mut heads = Vec::with_capacity(self.queues.len());
        let mut dropped = 0;
        self.queues.retain(|domain, queue| {
            dropped += drop_cancelled_front(queue);
            heads.extend(queue.front().map(|oldest| (oldest.age, *domain)));
            !queue.is_empty()
        });
        self.waiting -= dropped;
        heads.sort_unstable();
        if self.limits.batching == Batching::PerDomain {
            heads.truncate(1);
        }
        let mut adapters = 0;
        heads.retain(|(_, domain)| {
            let is_adapter = *domain != Domain::Base;
            let chosen = !is_adapter || self.cap.has_room(adapters);
            adapters += usize::from(is_adapter && chosen);
            chosen
        });
        let take = |(_, domain)| {
            let queue = self.queues.remove(&domain)?;
            Some(Turn { domain, queue, share: Vec::new(), tokens: 0 })
        };
        heads.into_iter().filter_map(take).collect()
    }
}

/// Drops cancelled rows at the front of `queue` and says how many.
fn drop_cancelled_front<R: Row>(queue: &mut VecDeque<Picked<R>>) -> usize {
    let cancelled = queue.iter().take_while(|picked| picked.row.is_cancelled()).count();
    queue.drain(..cancelled);
    cancelled
}
