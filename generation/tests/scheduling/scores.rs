//! Laws of prompts whose tokens are judged by the logits before them. That each is judged once and with its own is checked in
//! every history.

use polylora_generation::{SchedulerLimits, StepBatch};

use crate::client::{Client, limits, some};

fn step(client: &mut Client) -> StepBatch {
    client.step_with(|_| {}).unwrap().0
}

fn targets(batch: &StepBatch) -> Vec<usize> {
    batch.rows.iter().map(|row| row.targets.len()).collect()
}

#[test]
fn a_scored_prompt_is_computed_from_its_first_token_and_others_find_it() {
    let mut client = Client::new(limits(4, 100));
    client.ask(0, &[1; 10], 1, 1).unwrap();
    client.drain();
    client.scores_prompts = true;
    client.ask(0, &[1; 10], 1, 1).unwrap();
    let scored = step(&mut client);
    assert_eq!((scored.rows[0].context, scored.rows[0].tokens.len(), targets(&scored)), (0, 10, vec![9]));
    let stats = client.scheduler.stats();
    assert_eq!((stats.prefix_queries, stats.prefix_hits), (10, 0), "it was not looked up");
    client.scores_prompts = false;
    client.ask(0, &[1; 10], 1, 1).unwrap();
    assert_eq!(step(&mut client).rows[0].cached, 8);
}

#[test]
fn a_step_judges_no_more_than_it_may_and_others_use_the_tokens_that_this_leaves() {
    let mut client = Client::new(SchedulerLimits { max_targets: some(3), ..limits(4, 100) });
    client.scores_prompts = true;
    client.ask(0, &[1; 7], 1, 1).unwrap();
    client.ask(0, &[2; 5], 1, 1).unwrap();
    client.scores_prompts = false;
    client.ask(0, &[3; 20], 1, 1).unwrap();
    let first = step(&mut client);
    assert_eq!(first.rows.iter().map(|row| row.tokens.len()).collect::<Vec<_>>(), [3, 20]);
    assert_eq!(targets(&first), [3, 0]);
    // Three positions are left of the first; the token after them judges nothing.
    let second = step(&mut client);
    assert_eq!((second.rows[0].tokens.len(), targets(&second)), (4, vec![3]));
    assert_eq!(targets(&step(&mut client)), [3]);
    assert_eq!(targets(&step(&mut client)), [1]);
    assert!(client.step().is_none());
}

#[test]
fn a_prompt_of_one_token_has_nothing_to_judge() {
    let mut client = Client::new(limits(4, 100));
    client.scores_prompts = true;
    client.ask(0, &[1], 2, 3).unwrap();
    assert_eq!(step(&mut client).rows[0].wanted_logits(), 1);
    client.drain();
}
