//! Laws of the scheduler: pure, so random histories can be played through it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::{Duration, Instant};

use polylora_adapters::Digest;
use polylora_engine::{BatchLimits, Batching, Commit, Domain, PickedBatch, Row, Scheduler};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct TestRow {
    id: usize,
    domain: Domain,
    tokens: usize,
    cancelled: Rc<Cell<bool>>,
}

impl Row for TestRow {
    fn domain(&self) -> Domain {
        self.domain
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }
}

#[derive(Clone, Debug)]
enum Event {
    Arrive {
        domain: u8,
        tokens: usize,
    },
    Cancel {
        which: usize,
    },
    Purge,
    /// Run a batch on a device with room for so many adapters.
    Run {
        room: usize,
    },
    /// Pick a batch and put it back, as when others came before the device took it.
    PutBack,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => (0u8..6, 1usize..40).prop_map(|(domain, tokens)| Event::Arrive { domain, tokens }),
        1 => any::<usize>().prop_map(|which| Event::Cancel { which }),
        1 => Just(Event::Purge),
        2 => (1usize..7).prop_map(|room| Event::Run { room }),
        1 => Just(Event::PutBack),
    ];
    proptest::collection::vec(event, 0..150)
}

fn domain(number: u8) -> Domain {
    match number {
        0 => Domain::Base,
        n => Domain::Adapter(Digest([n; 32])),
    }
}

fn limits(tokens: usize, rows: usize, waiting: usize) -> BatchLimits {
    let bound = |n| NonZeroUsize::new(n).unwrap();
    BatchLimits {
        max_batch_tokens: bound(tokens),
        max_batch_rows: bound(rows),
        max_waiting_rows: bound(waiting),
        batching: Batching::Mixed,
    }
}

/// A scheduler beside a plain list of what it should hold.
struct Model {
    scheduler: Scheduler<TestRow>,
    limits: BatchLimits,
    waiting: Vec<TestRow>,
    done: BTreeMap<Domain, Vec<usize>>,
    now: Instant,
    next_id: usize,
}

impl Model {
    fn new(limits: BatchLimits) -> Self {
        let scheduler = Scheduler::new(limits);
        let now = Instant::now();
        Self { scheduler, limits, waiting: vec![], done: BTreeMap::new(), now, next_id: 0 }
    }

    fn arrive(&mut self, number: u8, tokens: usize) {
        let row = TestRow { id: self.next_id, domain: domain(number), tokens, cancelled: Rc::default() };
        self.next_id += 1;
        self.now += Duration::from_millis(1);
        self.scheduler.enqueue(row.clone(), self.now).unwrap();
        self.waiting.push(row);
    }

    fn forget_cancelled(&mut self) {
        self.waiting.retain(|row| !row.cancelled.get());
    }

    /// Picks a batch, checks it against the bounds and the list, and runs it; `false` when there was none.
    fn run(&mut self, room: usize) -> bool {
        let picked = self.scheduler.next_batch(self.now);
        self.forget_cancelled();
        assert_eq!(picked.is_some(), !self.waiting.is_empty(), "an idle device waits although a row does");
        let Some(batch) = picked else { return false };
        self.check(&batch);
        let mut placed: Vec<Domain> = vec![];
        let (mut deferred, mut done) = (vec![], vec![]);
        for picked in batch.rows {
            let domain = picked.row.domain;
            let fits = domain == Domain::Base || placed.contains(&domain) || placed.len() < room;
            if fits && domain != Domain::Base && !placed.contains(&domain) {
                placed.push(domain);
            }
            if fits { done.push(picked) } else { deferred.push(picked) }
        }
        for picked in &done {
            self.waiting.retain(|row| row.id != picked.row.id);
            self.done.entry(picked.row.domain).or_default().push(picked.row.id);
        }
        self.scheduler.commit(Commit { deferred, adapters_placed: placed.len() });
        assert!(self.scheduler.len() >= self.waiting.len(), "rows are lost");
        true
    }

    fn check(&self, batch: &PickedBatch<TestRow>) {
        let rows: Vec<_> = batch.rows.iter().map(|picked| &picked.row).collect();
        let tokens: usize = rows.iter().map(|row| row.tokens).sum();
        assert_eq!(tokens, batch.tokens);
        assert!(tokens <= self.limits.max_batch_tokens.get() || rows.len() == 1, "the budget is exceeded");
        assert!(rows.len() <= self.limits.max_batch_rows.get());
        assert!(rows.iter().all(|row| !row.cancelled.get()), "a cancelled row was picked");
        assert_eq!(rows[0].id, self.waiting[0].id, "the oldest row is not first");
        let mut domains: Vec<_> = rows.iter().map(|row| row.domain).collect();
        domains.dedup();
        let segments = domains.len();
        domains.sort();
        domains.dedup();
        assert_eq!(segments, domains.len(), "rows of a domain are not neighbours");
    }
}

proptest! {
    #[test]
    fn no_row_is_lost_doubled_or_overtaken_in_its_domain_and_no_bound_is_broken(
        events in events(), tokens in 1usize..80, rows in 1usize..12, per_domain: bool,
    ) {
        let batching = if per_domain { Batching::PerDomain } else { Batching::Mixed };
        let mut model = Model::new(BatchLimits { batching, ..limits(tokens, rows, 1000) });
        let mut cancelled = 0;
        for event in events {
            match event {
                Event::Arrive { domain, tokens } => model.arrive(domain, tokens),
                Event::Cancel { which } if !model.waiting.is_empty() => {
                    let which = which % model.waiting.len();
                    cancelled += usize::from(!model.waiting[which].cancelled.replace(true));
                }
                Event::Cancel { .. } => {}
                Event::Purge => {
                    model.scheduler.drop_cancelled();
                    model.forget_cancelled();
                    prop_assert_eq!(model.scheduler.len(), model.waiting.len());
                }
                Event::Run { room } => {
                    model.run(room);
                }
                Event::PutBack => {
                    if let Some(batch) = model.scheduler.next_batch(model.now) {
                        model.scheduler.put_back(batch);
                    }
                }
            }
        }
        // Every batch does at least its oldest row, so as many batches as rows always suffice.
        for _ in 0..model.waiting.len() {
            model.run(1);
        }
        prop_assert!(!model.run(1));
        prop_assert!(model.scheduler.is_empty());
        let done: usize = model.done.values().map(Vec::len).sum();
        prop_assert_eq!(done + cancelled, model.next_id);
        for ids in model.done.values() {
            prop_assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "order within a domain: {:?}", ids);
        }
    }

    #[test]
    fn no_domain_gets_more_than_its_part_while_another_lacks_its_own(
        counts in proptest::collection::vec((0usize..40, 1usize..9), 1..6), tokens in 9usize..120, rows in 1usize..30,
    ) {
        let mut model = Model::new(limits(tokens, rows, 1000));
        for (number, (count, length)) in counts.iter().enumerate() {
            (0..*count).for_each(|_| model.arrive(number as u8, *length));
        }
        let demand: Vec<usize> = counts.iter().map(|(count, length)| count * length).collect();
        let hungry_domains = demand.iter().filter(|tokens| **tokens > 0).count();
        if let Some(batch) = model.scheduler.next_batch(model.now) {
            let share = |number: usize| -> usize {
                let own = batch.rows.iter().filter(|p| p.row.domain == domain(number as u8));
                own.map(|p| p.row.tokens).sum()
            };
            let all: usize = demand.iter().sum();
            let part = all.div_ceil(all.div_ceil(tokens)) / hungry_domains;
            let lacks = |number: usize| share(number) + counts[number].1 <= demand[number].min(part);
            let would_fit = |number: usize| batch.tokens + counts[number].1 <= tokens;
            for hungry in (0..counts.len()).filter(|&number| lacks(number) && would_fit(number)) {
                for other in 0..counts.len() {
                    // Parts are filled row by row in turn, so nobody is more than a row ahead of who lacks his part.
                    let rows_of = |number: usize| share(number) / counts[number].1;
                    prop_assert!(share(other) <= part.max(counts[other].1), "{:?}", counts);
                    prop_assert!(rows_of(other) <= rows_of(hungry) + 1, "{:?}", counts);
                }
            }
        }
    }

    #[test]
    fn what_waits_is_cut_into_the_fewest_batches_and_those_are_of_one_size(
        rows in 1usize..400, most in 1usize..70,
    ) {
        let mut model = Model::new(limits(most, 1000, 1000));
        (0..rows).for_each(|row| model.arrive((row % 5) as u8, 1));
        let mut sizes = vec![];
        while let Some(batch) = model.scheduler.next_batch(model.now) {
            sizes.push(batch.tokens);
        }
        prop_assert_eq!(sizes.len(), rows.div_ceil(most));
        let (least, greatest) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        prop_assert!(greatest - least <= 1, "{:?}", sizes);
    }

    #[test]
    fn domain_by_domain_every_batch_is_of_one_domain(events in events()) {
        let mut model = Model::new(BatchLimits { batching: Batching::PerDomain, ..limits(60, 9, 1000) });
        for event in events {
            if let Event::Arrive { domain, tokens } = event {
                model.arrive(domain, tokens);
            }
        }
        while let Some(batch) = model.scheduler.next_batch(model.now) {
            prop_assert!(batch.rows.windows(2).all(|pair| pair[0].row.domain == pair[1].row.domain));
        }
    }
}

#[test]
fn a_hot_domain_does_not_fill_the_batch_alone_and_what_others_leave_is_its_own() {
    let mut model = Model::new(limits(100, 100, 10_000));
    (0..3000).for_each(|_| model.arrive(1, 1));
    (0..2).for_each(|_| model.arrive(2, 5));
    model.arrive(3, 60);
    let batch = model.scheduler.next_batch(model.now).unwrap();
    let share = |number| batch.rows.iter().filter(|p| p.row.domain == domain(number)).count();
    // A part is 33 tokens; one row of 60 counts for a part.
    assert_eq!((share(3), share(2), share(1)), (1, 2, 30));
}

#[test]
fn what_parts_leave_goes_to_the_oldest_rows() {
    let mut model = Model::new(limits(12, 100, 1000));
    (0..8).for_each(|_| model.arrive(1, 1));
    (0..8).for_each(|_| model.arrive(2, 1));
    model.arrive(3, 1);
    let batch = model.scheduler.next_batch(model.now).unwrap();
    let ids: Vec<usize> = batch.rows.iter().map(|picked| picked.row.id).collect();
    // Seventeen wait, two batches of nine: three of each domain first, then the two oldest.
    assert_eq!(ids, [0, 1, 2, 3, 4, 8, 9, 10, 16]);
}

#[test]
fn a_row_with_k_older_ones_is_in_one_of_the_next_k_plus_1_batches_whatever_comes_after() {
    let mut model = Model::new(limits(10, 2, 10_000));
    for _ in 0..20 {
        model.arrive(1, 3);
    }
    model.arrive(2, 10);
    let late = 20;
    for _ in 0..=late {
        model.run(1);
        for hot in 3..6 {
            (0..5).for_each(|_| model.arrive(hot, 1));
        }
    }
    assert!(model.waiting.iter().all(|row| row.id > late));
}

#[test]
fn a_row_longer_than_the_budget_goes_alone_and_is_not_overtaken_in_its_domain() {
    let mut model = Model::new(limits(10, 8, 100));
    for tokens in [2, 50, 2] {
        model.arrive(1, tokens);
    }
    model.arrive(2, 2);
    let mut batches = vec![];
    while let Some(batch) = model.scheduler.next_batch(model.now) {
        batches.push(batch.rows.iter().map(|picked| picked.row.id).collect::<Vec<_>>());
    }
    assert_eq!(batches, [vec![0, 3], vec![1], vec![2]]);
}

#[test]
fn a_full_queue_gives_the_row_back() {
    let mut scheduler = Scheduler::new(limits(10, 8, 2));
    let row = |id| TestRow { id, domain: Domain::Base, tokens: 1, cancelled: Rc::default() };
    let now = Instant::now();
    assert!(scheduler.enqueue(row(0), now).is_ok() && scheduler.enqueue(row(1), now).is_ok());
    assert_eq!(scheduler.enqueue(row(2), now).unwrap_err().id, 2);
    scheduler.next_batch(now).unwrap();
    assert!(scheduler.enqueue(row(3), now).is_ok());
}

#[test]
fn after_a_deferral_a_batch_brings_as_many_adapters_as_found_a_place_and_the_base_beside_them() {
    let mut model = Model::new(limits(1000, 100, 1000));
    let adapters = |batch: &PickedBatch<TestRow>| {
        let mut domains: Vec<_> = batch.rows.iter().map(|picked| picked.row.domain).collect();
        domains.dedup();
        (domains.iter().filter(|d| **d != Domain::Base).count(), domains.contains(&Domain::Base))
    };
    (1..6).for_each(|number| model.arrive(number, 1));
    model.run(2);
    (0..6).for_each(|number| model.arrive(number, 1));
    let batch = model.scheduler.next_batch(model.now).unwrap();
    assert_eq!(adapters(&batch), (2, true));
    model.scheduler.commit(Commit { deferred: vec![], adapters_placed: 2 });
    (0..6).for_each(|number| model.arrive(number, 1));
    let batch = model.scheduler.next_batch(model.now).unwrap();
    assert_eq!(adapters(&batch), (3, true), "a batch that was placed whole lets one more adapter in");
}

#[test]
fn a_row_waits_from_its_arrival_even_when_it_was_deferred() {
    let mut model = Model::new(limits(1000, 100, 1000));
    model.arrive(1, 1);
    model.arrive(2, 1);
    let arrived = model.now;
    model.run(1);
    let batch = model.scheduler.next_batch(arrived + Duration::from_secs(3)).unwrap();
    assert_eq!(batch.rows.len(), 1);
    assert_eq!(batch.rows[0].waited, Duration::from_secs(3));
}
