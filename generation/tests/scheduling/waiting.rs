//! Laws of waiting: who gets into a step, and when at the latest a sequence is done.

use std::collections::BTreeMap;

use polylora_generation::{ADAPTER_TURN_STEPS, Refusal, SchedulerLimits, SequenceId};
use proptest::prelude::*;

use crate::client::{Client, limits, some};

/// Steps that a sequence needs at most while it is the oldest and its adapter is in turn.
fn work(limits: &SchedulerLimits, prompt: usize, max_tokens: usize) -> usize {
    let least_chunk = limits.max_batch_tokens.get() - limits.effective_max_running() + 1;
    (prompt + max_tokens).div_ceil(least_chunk) + max_tokens
}

#[derive(Clone, Debug)]
struct Arrival {
    domain: u8,
    prompt: usize,
    copies: usize,
    max_tokens: usize,
    /// Steps until the next.
    gap: usize,
}

fn arrivals(domains: u8) -> impl Strategy<Value = Vec<Arrival>> {
    let copies = prop_oneof![4 => Just(1usize), 1 => 2usize..4];
    let arrival = (0..domains, 1usize..30, copies, 1usize..30, 0usize..3).prop_map(
        |(domain, prompt, copies, max_tokens, gap)| Arrival { domain, prompt, copies, max_tokens, gap },
    );
    proptest::collection::vec(arrival, 1..25)
}

/// Plays the arrivals and holds every sequence to its deadline: the work of the older ones and its own, and for each
/// of them `slack` steps more, all of it `rounds` times.
fn hold_to_deadlines(client: &mut Client, arrivals: Vec<Arrival>, slack: usize, rounds: usize) {
    let mut deadlines: BTreeMap<SequenceId, usize> = BTreeMap::new();
    let is_first_served = client.scheduler.limits().most_adapters.is_none();
    let mut arrivals = arrivals.into_iter();
    let mut gap = 0;
    loop {
        while gap == 0 {
            let Some(next) = arrivals.next() else { break };
            let prompt: Vec<u32> = (0..next.prompt as u32).map(|token| token % 2).collect();
            gap = next.gap;
            if client.ask(next.domain, &prompt, next.copies, next.max_tokens).is_err() {
                continue;
            }
            let mut sum = 0;
            for (id, live) in &client.live {
                let work = work(client.scheduler.limits(), live.prompt.len(), live.max_tokens);
                sum += (work + slack) * rounds;
                deadlines.entry(*id).or_insert(client.steps + sum);
            }
        }
        gap = gap.saturating_sub(1);
        let oldest = client.live.keys().next().copied();
        let Some((batch, ended)) = client.step_with(|_| {}) else {
            if arrivals.len() == 0 {
                return;
            }
            continue;
        };
        let serves_oldest = batch.rows.iter().any(|row| Some(row.sequence) == oldest);
        assert!(serves_oldest || !is_first_served, "{oldest:?} is the oldest and has no row");
        for ended in ended {
            let deadline = deadlines[&ended.sequence];
            assert!(client.steps <= deadline, "{ended:?} was due at {deadline}, it is {}", client.steps);
        }
        let due = deadlines.iter().find(|(id, due)| client.live.contains_key(id) && **due < client.steps);
        assert!(due.is_none(), "{due:?} of a sequence that goes on at {}", client.steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_oldest_is_in_every_step_and_everybody_ends_within_the_work_of_the_older_ones(
        arrivals in arrivals(4), blocks in 8u32..40, tokens in 1usize..40, running in 1usize..10,
    ) {
        let limits = SchedulerLimits {
            max_batch_tokens: some(tokens), max_running: some(running), ..limits(3, blocks)
        };
        hold_to_deadlines(&mut Client::new(limits), arrivals, 0, 1);
    }

    #[test]
    fn with_fewer_places_than_adapters_everybody_ends_within_as_many_rounds_of_that(
        arrivals in arrivals(6), blocks in 8u32..40, places in 1usize..5,
    ) {
        let limits = SchedulerLimits { most_adapters: Some(some(places)), ..limits(3, blocks) };
        let rounds = 5usize.div_ceil(places);
        hold_to_deadlines(&mut Client::new(limits), arrivals, ADAPTER_TURN_STEPS as usize, rounds);
    }

    #[test]
    fn prompts_get_all_that_decodes_leave(prompts in proptest::collection::vec(1usize..50, 1..8), tokens in 8usize..60) {
        let limits = SchedulerLimits { max_batch_tokens: some(tokens), prefix_caching: false, ..limits(4, 200) };
        let mut client = Client::new(limits);
        for prompt in &prompts {
            client.ask(0, &vec![0; *prompt], 1, 5).unwrap();
        }
        let (mut computed, all) = (BTreeMap::new(), prompts.iter().sum::<usize>());
        while let Some((batch, _)) = client.step_with(|_| {}) {
            let left = all - computed.values().sum::<usize>();
            let in_prompts = batch.rows.iter().filter(|row| row.context < prompts[row.sequence.0 as usize]);
            let of_prompts: usize = in_prompts.map(|row| {
                *computed.entry(row.sequence).or_insert(0) += row.tokens.len();
                row.tokens.len()
            }).sum();
            let decodes = batch.rows.iter().map(|row| row.tokens.len()).sum::<usize>() - of_prompts;
            prop_assert_eq!(of_prompts, left.min(tokens - decodes));
        }
    }
}

#[test]
fn a_long_prompt_never_holds_decodes_up() {
    let mut client = Client::new(SchedulerLimits { max_batch_tokens: some(8), ..limits(4, 100) });
    let short: Vec<_> = (0..3).map(|token| client.ask(0, &[token], 1, 30).unwrap()).collect();
    client.step();
    let long = client.ask(0, &[2; 120], 1, 1).unwrap();
    for step in 0..24 {
        let (batch, ended) = client.step_with(|_| {}).unwrap();
        let draws: Vec<_> = batch.rows.iter().flat_map(|row| row.draws.clone()).collect();
        assert!(short.iter().all(|id| draws.contains(id)), "{draws:?} in step {step}");
        assert_eq!(ended.iter().any(|ended| ended.sequence == long), step == 23, "five tokens a step");
    }
}

#[test]
fn who_would_take_the_next_blocks_of_those_that_run_waits() {
    let mut client = Client::new(limits(4, 4));
    client.ask(0, &[0; 7], 1, 6).unwrap();
    client.ask(1, &[1; 6], 1, 6).unwrap();
    client.step();
    assert_eq!(client.scheduler.stats().running, 1, "two blocks of four would be enough for now");
    client.drain();
    assert_eq!(client.scheduler.stats().preemptions, 0);
}

#[test]
fn the_youngest_is_preempted_and_finds_its_full_blocks_again() {
    let mut client = Client::new(limits(4, 5));
    client.ask(0, &[0; 3], 1, 10).unwrap();
    let second = client.ask(0, &[1; 7], 1, 10).unwrap();
    client.step();
    assert_eq!(client.scheduler.stats().running, 2);
    let mut contexts = vec![];
    while let Some((batch, _)) = client.step_with(|_| {}) {
        contexts.extend(batch.rows.iter().filter(|row| row.sequence == second).map(|row| row.context));
    }
    assert_eq!(client.scheduler.stats().preemptions, 1);
    let again = contexts.windows(2).find(|pair| pair[1] <= pair[0]).expect("it starts again");
    assert_eq!(again[1], 8, "its two full blocks are known still: {contexts:?}");
    let stats = client.scheduler.stats();
    assert_eq!((stats.prefix_queries, stats.prefix_hits), (10, 0), "its own work is no hit");
}

#[test]
fn who_lost_his_blocks_takes_nobodys_place_in_the_queue() {
    let mut client = Client::new(SchedulerLimits { max_waiting: some(1), ..limits(4, 5) });
    client.ask(0, &[0; 3], 1, 10).unwrap();
    client.step();
    client.ask(0, &[1; 7], 1, 10).unwrap();
    while client.scheduler.stats().preemptions == 0 {
        client.step();
    }
    assert_eq!(client.scheduler.stats().waiting, 1);
    client.ask(0, &[2; 3], 1, 2).unwrap();
    let full = Refusal::QueueFull { waiting: 1, max_waiting: 1 };
    assert_eq!(client.ask(0, &[3; 3], 1, 2), Err(full));
    client.drain();
}

#[test]
fn no_more_run_than_a_step_has_tokens() {
    let limits = SchedulerLimits { max_batch_tokens: some(3), max_running: some(9), ..limits(4, 100) };
    let mut client = Client::new(limits);
    (0..9).for_each(|_| assert!(client.ask(0, &[1, 2], 1, 4).is_ok()));
    while client.step().is_some() {
        assert!(client.scheduler.stats().running <= 3);
    }
}
