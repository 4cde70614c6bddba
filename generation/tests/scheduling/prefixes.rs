//! Laws of the prefix cache, seen through the scheduler.

use polylora_generation::{DrawnToken, NewSequence, PrefixRoot, SchedulerLimits, SequenceId, StepOutcome};
use proptest::prelude::*;

use crate::client::{Client, limits, some};
use crate::fake_device::domain;

/// Runs a request alone to its end and gives the tokens that it found in the cache.
fn found(client: &mut Client, number: u8, prompt: &[u32]) -> usize {
    let before = client.scheduler.stats().prefix_hits;
    client.ask(number, prompt, 1, 1).unwrap();
    let (batch, _) = client.step_with(|_| {}).unwrap();
    client.drain();
    let hits = (client.scheduler.stats().prefix_hits - before) as usize;
    assert_eq!((batch.rows[0].cached, batch.rows[0].context), (hits, hits));
    hits
}

proptest! {
    #[test]
    fn full_blocks_of_the_common_prefix_are_found_and_never_that_of_the_last_token(
        first in 1usize..50, second in 1usize..50, common in 0usize..50, block_size in 1usize..9,
    ) {
        let mut client = Client::new(limits(block_size, 200));
        let first: Vec<u32> = (0..first as u32).collect();
        let second: Vec<u32> = (0..second as u32).map(|at| if (at as usize) < common { at } else { at + 100 }).collect();
        let common = common.min(first.len());
        prop_assert_eq!(found(&mut client, 0, &first), 0);
        let most = common.min(second.len() - 1);
        prop_assert_eq!(found(&mut client, 0, &second), most / block_size * block_size);
        let stats = client.scheduler.stats();
        prop_assert_eq!(stats.prefix_queries as usize, first.len() + second.len());
    }
}

#[test]
fn nothing_is_found_under_another_root() {
    let mut client = Client::new(limits(4, 100));
    assert_eq!(found(&mut client, 1, &[0; 20]), 0);
    assert_eq!(found(&mut client, 1, &[0; 20]), 16);
    assert_eq!(found(&mut client, 0, &[0; 20]), 0);
    assert_eq!(found(&mut client, 2, &[0; 20]), 0);
}

#[test]
fn what_a_replaced_adapter_left_behind_ages_out() {
    let mut client = Client::new(limits(4, 6));
    assert_eq!(found(&mut client, 1, &[0; 20]), 0);
    let full = client.scheduler.stats();
    assert_eq!((full.cached_blocks, full.free_blocks), (5, 1));
    assert_eq!(found(&mut client, 2, &[0; 20]), 0);
    assert_eq!(found(&mut client, 2, &[0; 20]), 16);
    assert_eq!(found(&mut client, 1, &[0; 20]), 0);
}

#[test]
fn blocks_are_reused_oldest_first_and_of_one_sequence_from_its_end() {
    let mut client = Client::new(limits(4, 10));
    found(&mut client, 0, &[1; 17]);
    found(&mut client, 0, &[2; 17]);
    // Eight of ten are known. This one takes the two free blocks and the last one of the first request.
    found(&mut client, 1, &[0; 11]);
    assert_eq!(client.scheduler.stats().free_blocks, 1);
    assert_eq!(found(&mut client, 0, &[2; 17]), 16, "the younger is whole");
    assert_eq!(found(&mut client, 0, &[1; 17]), 12, "of the older the end is gone");
}

#[test]
fn what_is_used_again_is_young_again() {
    let mut client = Client::new(limits(4, 9));
    found(&mut client, 0, &[1; 17]);
    found(&mut client, 0, &[2; 17]);
    found(&mut client, 0, &[1; 17]);
    found(&mut client, 1, &[0; 17]);
    assert_eq!(found(&mut client, 0, &[1; 17]), 16);
}

#[test]
fn tokens_that_were_drawn_are_found_by_the_next_turn_of_a_conversation() {
    let mut client = Client::new(limits(4, 100));
    let id = client.ask(0, &[0; 6], 1, 9).unwrap();
    let mut conversation = vec![0; 6];
    for _ in 0..8 {
        client.step();
        conversation = [vec![0; 6], client.live[&id].drawn.clone()].concat();
    }
    client.drain();
    conversation.extend([1, 1, 1, 1]);
    assert_eq!(found(&mut client, 0, &conversation), 12, "fourteen tokens were computed");
}

#[test]
fn who_waits_for_its_turn_in_a_step_finds_what_the_ones_before_computed() {
    let mut client = Client::new(SchedulerLimits { max_batch_tokens: some(20), ..limits(4, 100) });
    let ids: Vec<_> =
        (0..4).map(|last| client.ask(0, &[vec![0; 20], vec![last]].concat(), 1, 2).unwrap()).collect();
    let mut computed = 0;
    while let Some((batch, _)) = client.step_with(|_| {}) {
        computed += batch.rows.iter().map(|row| row.tokens.len()).sum::<usize>();
    }
    assert_eq!(ids.len(), 4);
    assert_eq!(computed, 21 + 3 + 4, "the common part once, of each one token and one decode");
    assert_eq!(client.scheduler.stats().prefix_hits, 60);
}

#[test]
fn a_prompt_that_was_begun_goes_on_with_what_became_known_meanwhile() {
    let limits = SchedulerLimits { max_batch_tokens: some(30), ..limits(4, 100) };
    let mut client = Client::new(limits);
    client.ask(0, &[0; 25], 1, 2).unwrap();
    let second = client.ask(0, &[0; 25], 1, 2).unwrap();
    let (begun, _) = client.step_with(|_| {}).unwrap();
    assert_eq!((begun.rows[1].sequence, begun.rows[1].tokens.len()), (second, 5));
    let (rest, _) = client.step_with(|_| {}).unwrap();
    assert_eq!((rest.rows[1].sequence, rest.rows[1].context, rest.rows[1].cached), (second, 24, 19));
    client.drain();
}

#[test]
fn a_reset_forgets_prefixes_and_disturbs_nobody() {
    let mut client = Client::new(limits(4, 30));
    found(&mut client, 0, &[1; 9]);
    client.ask(0, &[1; 9], 1, 12).unwrap();
    client.step();
    client.scheduler.reset_prefix_cache();
    client.scheduler.check_integrity();
    assert_eq!(client.scheduler.stats().cached_blocks, 0);
    client.drain();
    client.scheduler.reset_prefix_cache();
    assert_eq!(client.scheduler.stats().free_blocks, 30);
    assert_eq!(found(&mut client, 0, &[1; 9]), 0);
}

#[test]
fn what_a_sequence_took_and_what_it_computed_is_forgotten_with_its_chain_alone() {
    let mut client = Client::new(SchedulerLimits { max_batch_tokens: some(4), ..limits(4, 100) });
    found(&mut client, 0, &[1; 9]);
    found(&mut client, 0, &[2; 9]);
    let bad = client.ask(0, &[1; 30], 1, 3).unwrap();
    client.step();
    client.scheduler.forget_prefix(bad);
    client.scheduler.check_integrity();
    client.abort(bad);
    assert_eq!(found(&mut client, 0, &[1; 17]), 0);
    assert_eq!(found(&mut client, 0, &[2; 9]), 8);
}

#[test]
fn who_has_blocks_that_are_forgotten_goes_on_with_them() {
    let mut client = Client::new(limits(4, 100));
    let bad = client.ask(0, &[1; 9], 1, 30).unwrap();
    client.step();
    client.ask(0, &[1; 9], 1, 30).unwrap();
    client.step();
    client.scheduler.forget_prefix(bad);
    client.abort(bad);
    client.drain();
    assert_eq!(client.scheduler.stats().used_blocks, 0);
}

#[test]
fn without_prefix_caching_nothing_is_kept() {
    let mut client = Client::new(SchedulerLimits { prefix_caching: false, ..limits(4, 30) });
    assert_eq!(found(&mut client, 0, &[1; 9]), 0);
    assert_eq!(found(&mut client, 0, &[1; 9]), 0);
    assert_eq!(client.scheduler.stats().free_blocks, 30);
}

#[test]
fn the_root_alone_decides_what_is_shared() {
    let mut client = Client::new(limits(4, 100));
    let scheduler = &mut client.scheduler;
    let mut contexts = vec![];
    for (id, root) in [(0, 7), (1, 8), (2, 7)] {
        let new = NewSequence {
            id: SequenceId(id),
            prompt: vec![0; 9],
            root: PrefixRoot([root; 32]),
            domain: domain(0),
            copies: some(1),
            max_tokens: some(1),
            scores_prompt: false,
        };
        scheduler.enqueue(new).unwrap();
        let batch = scheduler.next_batch().unwrap();
        contexts.push(batch.rows[0].context);
        let drawn = DrawnToken { sequence: SequenceId(id), token: 0 };
        scheduler.commit(StepOutcome { drawn: vec![drawn], deferred: vec![] });
    }
    assert_eq!(contexts, [0, 0, 8]);
}

#[test]
fn what_a_preempted_sequence_computes_again_is_known_again() {
    let mut client = Client::new(limits(4, 5));
    let other = client.ask(1, &[0; 3], 1, 17).unwrap();
    client.ask(0, &[1; 7], 1, 8).unwrap();
    let preempts = |client: &Client| client.scheduler.stats().preemptions > 0;
    while !preempts(&client) {
        client.step();
    }
    while client.live.contains_key(&other) {
        client.step();
    }
    assert_eq!(client.scheduler.stats().prefix_hits, 0);
    client.scheduler.reset_prefix_cache();
    client.drain();
    assert_eq!(found(&mut client, 0, &[1; 7]), 4);
}

#[test]
fn every_sibling_says_what_their_prompt_found() {
    let mut client = Client::new(limits(4, 60));
    found(&mut client, 0, &[1; 11]);
    client.ask(0, &[1; 11], 3, 4).unwrap();
    client.step();
    let (decode, _) = client.step_with(|_| {}).unwrap();
    assert!(decode.rows.len() == 3 && decode.rows.iter().all(|row| row.cached == 8), "{decode:?}");
}
