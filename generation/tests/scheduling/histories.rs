//! Random histories: whatever happens, tokens are as alone, bounds hold, and the pool is whole.

use polylora_generation::SchedulerLimits;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::client::{Client, limits, some};
use crate::fake_device::VOCABULARY;

#[derive(Clone, Debug)]
enum Event {
    Ask { domain: u8, prompt: Vec<u32>, copies: usize, max_tokens: usize, scored: bool },
    Abort { which: usize },
    Finish { which: usize },
    ResetPrefixes,
    Step { room: usize },
    StepAndAbort { which: usize },
    Lose { in_step: bool },
}

/// Prompts of few tokens, so that many start alike.
fn prompt() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![
        3 => (1usize..30, 0..VOCABULARY as u32).prop_map(|(len, last)| [vec![1; len - 1], vec![last]].concat()),
        1 => proptest::collection::vec(0..VOCABULARY as u32, 1..30),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let copies = prop_oneof![3 => Just(1usize), 1 => 2usize..5];
    let ask = (0u8..5, prompt(), copies, 1usize..20, proptest::bool::weighted(0.2));
    let ask = ask.prop_map(|(domain, prompt, copies, max_tokens, scored)| Event::Ask {
        domain,
        prompt,
        copies,
        max_tokens,
        scored,
    });
    let event = prop_oneof![
        16 => ask,
        4 => any::<usize>().prop_map(|which| Event::Abort { which }),
        4 => any::<usize>().prop_map(|which| Event::Finish { which }),
        4 => Just(Event::ResetPrefixes),
        32 => prop_oneof![3 => Just(usize::MAX), 1 => 1usize..4].prop_map(|room| Event::Step { room }),
        4 => any::<usize>().prop_map(|which| Event::StepAndAbort { which }),
        1 => any::<bool>().prop_map(|in_step| Event::Lose { in_step }),
    ];
    proptest::collection::vec(event, 0..120)
}

fn play(client: &mut Client, events: Vec<Event>) {
    for event in events {
        match event {
            Event::Ask { domain, prompt, copies, max_tokens, scored } => {
                client.scores_prompts = scored;
                // Refusals are judged elsewhere; here they only must leave no trace.
                let _ = client.ask(domain, &prompt, copies, max_tokens);
            }
            Event::Abort { which } => client.abort_any(which),
            Event::Finish { which } => client.finish_any(which),
            Event::ResetPrefixes => {
                client.scheduler.reset_prefix_cache();
                assert_eq!(client.scheduler.stats().cached_blocks, 0);
            }
            Event::Step { room } => {
                client.device.room = room;
                client.step();
            }
            Event::StepAndAbort { which } => {
                client.step_with(|client| client.abort_any(which));
            }
            Event::Lose { in_step: true } => client.lose_step(),
            Event::Lose { in_step: false } => client.lose(),
        }
        client.scheduler.check_integrity();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_history_draws_what_each_sequence_draws_alone_and_leaves_the_pool_whole(
        events in events(), block_size in 1usize..6, blocks in 4u32..30, tokens in 1usize..40, running in 1usize..12,
        adapters in proptest::option::of(1usize..4), prefix_caching: bool, targets in 1usize..20,
    ) {
        let mut client = Client::new(SchedulerLimits {
            max_batch_tokens: some(tokens),
            max_running: some(running),
            max_context: some(40),
            max_targets: some(targets),
            most_adapters: adapters.map(some),
            prefix_caching,
            ..limits(block_size, blocks)
        });
        play(&mut client, events);
        client.device.room = 1;
        client.drain();
        let stats = client.scheduler.stats();
        prop_assert!(client.scheduler.is_empty());
        prop_assert_eq!((stats.running, stats.waiting, stats.used_blocks), (0, 0, 0));
        prop_assert_eq!(stats.cached_blocks + stats.free_blocks, blocks as usize);
        prop_assert!(stats.prefix_hits <= stats.prefix_queries);
        prop_assert!(prefix_caching || (stats.prefix_queries, stats.cached_blocks) == (0, 0));
        client.scheduler.reset_prefix_cache();
        prop_assert_eq!(client.scheduler.stats().free_blocks, blocks as usize);
    }
}

/// That the histories above reach what they are meant to reach.
#[test]
fn such_histories_preempt_copy_share_and_fill_the_cache() {
    let mut runner = TestRunner::deterministic();
    let (mut preemptions, mut hits, mut copies) = (0, 0, 0);
    for _ in 0..100 {
        let events = events().new_tree(&mut runner).unwrap().current();
        let mut client = Client::new(limits(3, 14));
        play(&mut client, events);
        while let Some((batch, _)) = client.step_with(|_| {}) {
            copies += batch.copies.len();
        }
        preemptions += client.scheduler.stats().preemptions;
        hits += client.scheduler.stats().prefix_hits;
    }
    assert!(preemptions > 50 && hits > 500 && copies > 20, "{preemptions} {hits} {copies}");
}
