//! Laws of the block pool and of tables, against plain lists.

use std::num::NonZeroU32;

use polylora_generation::{BlockId, BlockLease, BlockPool, BlockTable, PoolStats};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    Take,
    Clone(usize),
    Share(usize),
    Drop(usize),
    Keep(usize),
    LetGo(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => Just(Event::Take),
        2 => any::<usize>().prop_map(Event::Clone),
        2 => any::<usize>().prop_map(Event::Share),
        4 => any::<usize>().prop_map(Event::Drop),
        3 => any::<usize>().prop_map(Event::Keep),
        1 => any::<usize>().prop_map(Event::LetGo),
    ];
    proptest::collection::vec(event, 0..150)
}

fn pool(blocks: u32) -> BlockPool {
    BlockPool::new(NonZeroU32::new(blocks).unwrap())
}

/// The blocks that are idle, the longest first, and those that are marked, beside the leases themselves.
#[derive(Default)]
struct Model {
    leases: Vec<BlockLease>,
    marked: Vec<BlockId>,
    idle: Vec<BlockId>,
}

impl Model {
    fn leases_on(&self, id: BlockId) -> usize {
        self.leases.iter().filter(|lease| lease.id() == id).count()
    }

    fn drop_one(&mut self, which: usize) {
        let id = self.leases.swap_remove(which % self.leases.len()).id();
        if self.leases_on(id) == 0 && self.marked.contains(&id) {
            self.idle.push(id);
        }
    }
}

proptest! {
    #[test]
    fn every_block_is_leased_idle_or_free_and_the_longest_idle_is_taken_last(events in events(), blocks in 1u32..12) {
        let pool = pool(blocks);
        let mut model = Model::default();
        for event in events {
            let some_lease = |model: &Model, which: usize| model.leases.get(which % model.leases.len().max(1)).cloned();
            match event {
                Event::Take => {
                    let free = pool.stats().free;
                    match pool.take() {
                        Some(taken) => {
                            let id = taken.lease.id();
                            prop_assert_eq!(model.leases_on(id), 0, "{:?} is leased", id);
                            prop_assert_eq!(taken.was_kept, free == 0);
                            if taken.was_kept {
                                prop_assert_eq!(id, model.idle.remove(0), "not the longest idle");
                            }
                            model.marked.retain(|marked| *marked != id);
                            prop_assert!(!taken.lease.is_shared());
                            model.leases.push(taken.lease);
                        }
                        None => prop_assert_eq!(pool.available(), 0),
                    }
                }
                Event::Clone(which) => model.leases.extend(some_lease(&model, which)),
                Event::Share(which) if !model.idle.is_empty() => {
                    let id = model.idle.remove(which % model.idle.len());
                    model.leases.push(pool.share(id));
                }
                Event::Drop(which) if !model.leases.is_empty() => model.drop_one(which),
                Event::Keep(which) => {
                    if let Some(lease) = some_lease(&model, which) {
                        pool.keep(lease.id());
                        model.marked.push(lease.id());
                    }
                }
                Event::LetGo(which) if !model.marked.is_empty() => {
                    let id = model.marked[which % model.marked.len()];
                    pool.let_go(id);
                    model.marked.retain(|marked| *marked != id);
                    model.idle.retain(|idle| *idle != id);
                }
                Event::Share(_) | Event::Drop(_) | Event::LetGo(_) => {}
            }
            pool.check_integrity();
            let leased = (0..blocks).filter(|id| model.leases_on(BlockId(*id)) > 0).count();
            let (blocks, idle) = (blocks as usize, model.idle.len());
            prop_assert_eq!(pool.stats(), PoolStats { blocks, leased, idle, free: blocks - leased - idle });
            prop_assert_eq!(pool.available(), blocks - leased);
            prop_assert_eq!(pool.count_idle(&model.idle), idle);
            for lease in &model.leases {
                prop_assert_eq!(pool.leases(lease.id()), model.leases_on(lease.id()));
                prop_assert_eq!(lease.is_shared(), model.leases_on(lease.id()) > 1);
            }
        }
        model.leases.clear();
        prop_assert_eq!(pool.available(), blocks as usize);
    }
}

#[test]
fn a_table_gives_its_blocks_back_from_the_last_to_the_first() {
    let pool = pool(4);
    let mut table = BlockTable::default();
    for slot in 0..4 {
        table.set(slot, pool.take().unwrap().lease);
        pool.keep(table.get(slot).unwrap().id());
    }
    let ids = table.ids(4);
    let twin = table.clone();
    drop(table);
    assert_eq!(pool.available(), 0, "the twin holds them");
    drop(twin);
    let reused: Vec<_> = (0..4).map(|_| pool.take().unwrap()).collect();
    assert!(reused.iter().map(|taken| taken.lease.id()).eq(ids.into_iter().rev()));
}

#[test]
fn leases_that_outlive_their_pool_do_no_harm() {
    let pool = pool(2);
    let lease = pool.take().unwrap().lease;
    drop(pool);
    drop(lease);
}

#[test]
#[should_panic(expected = "is free and cannot be shared")]
fn a_free_block_has_nothing_to_share() {
    pool(2).share(BlockId(1));
}
