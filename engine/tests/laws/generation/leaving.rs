//! Clients that go away before they have all of it.

use std::time::Duration;

use polylora_engine::*;

use super::hash_device::alone;
use super::speaker::*;
use crate::harness::until;

#[tokio::test(flavor = "multi_thread")]
async fn who_drops_his_stream_is_in_no_step_that_begins_later_and_others_go_on() {
    let (engine, control) = start(configs()).await;
    control.hold();
    let staying = client(&engine, request(1, &[5; 6], 30));
    until("the first step is there", || control.steps() == 1).await;
    let leaving = {
        let engine = std::sync::Arc::clone(&engine);
        tokio::spawn(async move { engine.generate(request(2, &[6; 9], 200)).await })
    };
    // It is in the inbox before the next step is planned.
    tokio::time::sleep(Duration::from_millis(50)).await;
    control.allow(2);
    let stream = leaving.await.unwrap().unwrap();
    until("a step with both is under way", || control.steps() == 3).await;
    assert_eq!(control.steps.lock()[2].rows.len(), 2);
    assert!(metric(&engine, "vllm:num_requests_running") == 2.0);
    drop(stream);
    control.allow(1);
    until("the step after it is there", || control.steps() == 4).await;
    assert_eq!(control.steps.lock()[3].rows.len(), 1, "who has left is computed");
    assert_eq!(metric(&engine, "vllm:request_success_total{finished_reason=\"abort\"}"), 1.0);
    control.let_go();
    assert_eq!(staying.await.unwrap().unwrap().tokens(), alone(1, &[5; 6], 30));
    assert!(is_empty(&engine));
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_one_to_leave_gives_all_blocks_back_without_another_request() {
    let (engine, control) = start(configs()).await;
    let mut two = request(0, &[5; 30], 200);
    two.copies = 2;
    two.sampling.temperature = Some(1.0);
    let mut stream = engine.generate(two).await.unwrap();
    stream.events.recv().await.unwrap().unwrap();
    drop(stream);
    until("all blocks are back", || is_empty(&engine)).await;
    let aborted = "vllm:request_success_total{finished_reason=\"abort\"}";
    assert_eq!(metric(&engine, aborted), 2.0, "a copy each");
    let steps = control.steps();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(control.steps(), steps, "nobody is left and the device computes");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_before_his_prompt_was_computed_costs_nothing_more() {
    let one_at_a_time = GenerationConfigs { max_running: some(1), ..configs() };
    let (engine, control) = start(one_at_a_time).await;
    control.hold();
    let first = client(&engine, request(0, &[1; 5], 10));
    until("the first runs", || control.steps() == 1).await;
    let leaving: Vec<_> = (0..8u32).map(|i| client(&engine, request(1, &[100 + i; 9], 10))).collect();
    let last = client(&engine, request(2, &[3; 5], 10));
    tokio::time::sleep(Duration::from_millis(50)).await;
    control.allow(2);
    until("all others wait", || metric(&engine, "vllm:num_requests_waiting") == 9.0).await;
    leaving.iter().for_each(|client| client.abort());
    for client in leaving {
        assert!(client.await.unwrap_err().is_cancelled());
    }
    control.let_go();
    assert_eq!(first.await.unwrap().unwrap().tokens(), alone(0, &[1; 5], 10));
    assert_eq!(last.await.unwrap().unwrap().tokens(), alone(2, &[3; 5], 10));
    let is_left = |token: &u32| *token >= 100;
    let steps = control.steps.lock();
    assert!(!steps.iter().flat_map(|step| &step.rows).any(|row| row.tokens.iter().any(is_left)));
    assert!(is_empty(&engine));
}
