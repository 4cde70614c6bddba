//! What is refused, and where a sequence that was taken ends.

use polylora_generation::{EndCause, EndedSequence, Refusal, SchedulerLimits, StepBatch, StepOutcome};
use proptest::prelude::*;

use crate::client::{Client, limits, some};

#[test]
fn what_leaves_no_room_for_one_new_token_is_refused_with_its_numbers() {
    let mut client = Client::new(SchedulerLimits { max_running: some(3), ..limits(4, 5) });
    assert_eq!(client.ask(0, &[], 1, 1), Err(Refusal::EmptyPrompt));
    let too_long = Refusal::ExceedsCache { prompt: 20, capacity: 20, blocks: 5, block_size: 4 };
    assert_eq!(client.ask(0, &[0; 20], 1, 1), Err(too_long));
    assert_eq!(client.ask(0, &[0], 4, 1), Err(Refusal::TooManyCopies { copies: 4, max_running: 3 }));
    assert!(client.scheduler.is_empty());

    let mut client =
        Client::new(SchedulerLimits { max_context: some(10), max_waiting: some(2), ..limits(4, 5) });
    assert_eq!(client.ask(0, &[0; 10], 1, 1), Err(Refusal::ExceedsContext { prompt: 10, max_context: 10 }));
    assert!(client.ask(0, &[0; 9], 1, 1).is_ok() && client.ask(0, &[0], 5, 1).is_ok());
    assert_eq!(client.ask(0, &[0], 1, 1), Err(Refusal::QueueFull { waiting: 2, max_waiting: 2 }));
    client.step();
    assert!(client.ask(0, &[0], 1, 1).is_ok(), "there is room when others run");
}

#[test]
fn every_refusal_says_what_was_asked_and_what_is_possible() {
    let texts = [
        Refusal::EmptyPrompt.to_string(),
        Refusal::ExceedsContext { prompt: 10, max_context: 9 }.to_string(),
        Refusal::ExceedsCache { prompt: 20, capacity: 16, blocks: 4, block_size: 4 }.to_string(),
        Refusal::TooManyCopies { copies: 7, max_running: 5 }.to_string(),
        Refusal::QueueFull { waiting: 8, max_waiting: 6 }.to_string(),
    ];
    assert_eq!(
        texts,
        [
            "the prompt has no tokens",
            "the prompt has 10 tokens; with one new token that exceeds the context of 9 tokens",
            "the prompt has 20 tokens; with one new token that exceeds the KV cache of 16 tokens (4 blocks of 4)",
            "7 copies were asked for, at most 5 sequences run at one time",
            "8 requests wait, at most 6 may",
        ]
    );
}

proptest! {
    #[test]
    fn a_sequence_ends_at_the_first_of_its_three_bounds(
        prompt in 1usize..40, max_tokens in 1usize..60, context in 2usize..60, blocks in 1u32..12, others in 0usize..4,
    ) {
        let limits = SchedulerLimits { max_context: some(context), ..limits(4, blocks) };
        let mut client = Client::new(limits);
        let asked = client.ask(0, &vec![0; prompt], 1, max_tokens);
        let fits = prompt < context && prompt < limits.capacity();
        prop_assert_eq!(asked.is_ok(), fits);
        let Ok(sequence) = asked else { return Ok(()) };
        for other in 0..others {
            // Younger ones give way, so that they change nothing.
            let _ = client.ask(1, &vec![1; 1 + 3 * other], 1, 20);
        }
        let (by_context, by_cache) = (context - prompt, limits.capacity() + 1 - prompt);
        let cause = match max_tokens.min(by_context).min(by_cache) {
            least if least == max_tokens => EndCause::MaxTokens,
            least if least == by_context => EndCause::ContextFull,
            _ => EndCause::CacheFull,
        };
        let expected = EndedSequence { sequence, cause };
        prop_assert!(client.drain().contains(&expected), "not {:?}", cause);
    }
}

#[test]
fn a_prompt_that_fills_the_pool_but_for_one_token_draws_until_the_pool_is_full() {
    let mut client = Client::new(SchedulerLimits { max_batch_tokens: some(6), ..limits(4, 5) });
    let first = client.ask(0, &[0; 19], 1, 100).unwrap();
    let second = client.ask(1, &[0; 19], 3, 100).unwrap();
    let ended = client.drain();
    let ids: Vec<_> = ended.iter().map(|ended| ended.sequence).collect();
    assert_eq!(ids, [first, second, second.sibling(1), second.sibling(2)]);
    assert!(ended.iter().all(|ended| ended.cause == EndCause::CacheFull));
    assert_eq!(client.scheduler.stats().used_blocks, 0);
}

#[test]
fn what_is_drawn_for_a_sequence_that_went_meanwhile_is_ignored() {
    let mut client = Client::new(limits(4, 20));
    let gone = client.ask(0, &[0; 5], 1, 9).unwrap();
    let stays = client.ask(0, &[1; 5], 1, 2).unwrap();
    let (batch, _) = client.step_with(|client| client.abort(gone)).unwrap();
    assert_eq!(batch.rows.len(), 2);
    let ended = client.step().unwrap();
    assert_eq!(ended, [EndedSequence { sequence: stays, cause: EndCause::MaxTokens }]);
    assert!(client.step().is_none());
}

#[test]
fn a_step_that_failed_whole_can_be_deferred_whole() {
    let mut client = Client::new(limits(4, 20));
    client.ask(0, &[0; 5], 2, 4).unwrap();
    client.ask(1, &[0; 6], 1, 4).unwrap();
    client.step();
    let failed = client.scheduler.next_batch().unwrap();
    assert_eq!(failed.copies.len(), 1);
    // The copies were carried out, the rows were not.
    client.device.run(&StepBatch { rows: vec![], copies: failed.copies });
    let deferred = failed.rows.iter().map(|row| row.sequence).collect();
    assert_eq!(client.scheduler.commit(StepOutcome { drawn: vec![], deferred }), []);
    client.scheduler.check_integrity();
    assert_eq!(client.drain().len(), 3);
}
