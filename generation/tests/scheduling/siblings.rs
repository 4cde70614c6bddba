//! Laws of requests for several sequences after one prompt.

use polylora_generation::{SchedulerLimits, StepBatch};
use proptest::prelude::*;

use crate::client::{Client, limits, some};

fn step(client: &mut Client) -> StepBatch {
    client.step_with(|_| {}).unwrap().0
}

#[test]
fn siblings_compute_their_prompt_once_and_draw_together_at_its_end() {
    let mut client = Client::new(SchedulerLimits { max_batch_tokens: some(8), ..limits(4, 40) });
    let id = client.ask(0, &[0; 10], 3, 5).unwrap();
    let middle = step(&mut client);
    assert_eq!((middle.rows.len(), middle.rows[0].tokens.len()), (1, 8));
    assert!(middle.rows[0].draws.is_empty());
    let end = step(&mut client);
    assert_eq!((end.rows.len(), end.rows[0].tokens.len()), (1, 2));
    assert_eq!(end.rows[0].draws, [id, id.sibling(1), id.sibling(2)]);
    assert_eq!(client.scheduler.stats().running, 3);
    assert_eq!(step(&mut client).rows.len(), 3);
}

proptest! {
    #[test]
    fn siblings_hold_the_full_blocks_of_their_prompt_together_and_copy_the_rest_once_less_than_they_are(
        prompt in 1usize..40, copies in 1usize..8, block_size in 1usize..9,
    ) {
        let mut client = Client::new(limits(block_size, 200));
        client.ask(0, &vec![0; prompt], copies, 50).unwrap();
        step(&mut client);
        prop_assert_eq!(client.scheduler.stats().used_blocks, prompt.div_ceil(block_size));
        let decode = step(&mut client);
        let is_cut = prompt % block_size > 0;
        prop_assert_eq!(decode.copies.len(), if is_cut { copies - 1 } else { 0 });
        prop_assert_eq!(client.scheduler.stats().used_blocks, prompt / block_size + copies);
        prop_assert!(step(&mut client).copies.is_empty(), "what was copied is one's own");
        client.drain();
    }
}

#[test]
fn siblings_of_one_that_was_aborted_in_the_prompt_go_on() {
    let mut client = Client::new(SchedulerLimits { max_batch_tokens: some(4), ..limits(4, 40) });
    let id = client.ask(0, &[0; 9], 3, 5).unwrap();
    client.abort(id);
    let first = step(&mut client);
    assert_eq!(first.rows[0].sequence, id.sibling(1));
    client.abort(id.sibling(2));
    step(&mut client);
    let end = step(&mut client);
    assert_eq!(end.rows[0].draws, [id.sibling(1)]);
    client.abort(id.sibling(1));
    assert_eq!(client.scheduler.stats().used_blocks, 0);
    assert!(client.step().is_none());
}

#[test]
fn siblings_aborted_while_the_end_of_the_prompt_is_computed_leave_the_others_their_tokens() {
    let mut client = Client::new(limits(4, 40));
    let id = client.ask(0, &[0; 9], 3, 5).unwrap();
    client.step_with(|client| client.abort(id)).unwrap();
    assert_eq!(client.scheduler.stats().running, 2);
    let decode = step(&mut client);
    assert_eq!((decode.rows.len(), decode.copies.len()), (2, 1));
    client.drain();
}

#[test]
fn the_last_that_holds_a_shared_block_writes_it_without_a_copy() {
    let mut client = Client::new(limits(4, 40));
    let id = client.ask(0, &[0; 6], 2, 5).unwrap();
    step(&mut client);
    client.abort(id);
    assert!(step(&mut client).copies.is_empty());
}

#[test]
fn siblings_that_do_not_fit_together_run_one_after_the_other() {
    let mut client = Client::new(limits(4, 4));
    let id = client.ask(0, &[0; 7], 3, 8).unwrap();
    let ended: Vec<_> = client.drain().into_iter().map(|ended| ended.sequence).collect();
    assert_eq!(ended, [id, id.sibling(1), id.sibling(2)]);
    assert!(client.scheduler.stats().preemptions > 0);
}
