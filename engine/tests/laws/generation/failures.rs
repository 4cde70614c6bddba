//! Steps that fail, rows that fail, devices that are lost: only those are told of it whom it concerns.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use polylora_engine::*;
use tokio::task::JoinHandle;

use super::hash_device::{Control, FAIL, HUGE, NAN, PANIC, SHORT, alone};
use super::speaker::*;
use crate::harness::until;

const ERRORS: &str = "polylora_generation_errors_total{code=\"internal\"}";

fn is_internal<T>(reply: &Result<T, GenerateError>) -> bool {
    matches!(reply, Err(GenerateError::Internal { .. }))
}

fn is_unavailable<T>(reply: &Result<T, GenerateError>) -> bool {
    matches!(reply, Err(GenerateError::Unavailable { .. }))
}

/// A text of adapter 1 that has begun, and one whose prompt has `token`: both are in the next step.
async fn side_by_side(
    engine: &Arc<GenerationEngine>,
    control: &Control,
    token: u32,
) -> [JoinHandle<Result<Reply, GenerateError>>; 2] {
    control.hold();
    let mate = client(engine, request(1, &[5; 6], 20));
    until("the mate's step is there", || control.steps() > 0).await;
    let bad = client(engine, request(0, &[6, token, 6], 20));
    tokio::time::sleep(Duration::from_millis(50)).await;
    control.allow(1);
    until("both are in a step", || control.steps.lock().last().is_some_and(|step| step.rows.len() == 2))
        .await;
    [mate, bad]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_or_panics_fails_those_in_it_and_the_next_ones_are_answered() {
    for (token, builds) in [(FAIL, 1), (SHORT, 1), (PANIC, 2)] {
        let (engine, control) = start(GenerationConfigs { max_running: some(2), ..configs() }).await;
        let [mate, bad] = side_by_side(&engine, &control, token).await;
        let waiting: Vec<_> = (0..4).map(|i| client(&engine, request(i, &[7; 9], 12))).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        control.let_go();
        assert!(is_internal(&mate.await.unwrap()) && is_internal(&bad.await.unwrap()), "{token}");
        for (number, client) in (0..).zip(waiting) {
            assert_eq!(client.await.unwrap().unwrap().tokens(), alone(number, &[7; 9], 12), "{token}");
        }
        assert_eq!(control.builds.load(Ordering::SeqCst), builds, "{token}");
        assert_eq!(
            metric(&engine, "polylora_generation_worker_restarts_total"),
            f64::from(builds as u32 - 1)
        );
        assert_eq!(metric(&engine, ERRORS), 2.0, "each is counted once");
        assert_eq!(engine.health(), Health::Ready);
        assert!(is_empty(&engine));
        control.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_runs_and_is_not_in_the_step_that_loses_the_device_goes_on_with_the_same_tokens() {
    // One adapter a step: the texts of the first have blocks while the second has its turn.
    let (engine, control) = start(GenerationConfigs { most_adapters: Some(some(1)), ..configs() }).await;
    control.hold();
    let clients: Vec<_> = (0..3u32).map(|i| client(&engine, request(1, &[i; 9], 40))).collect();
    until("they have begun", || control.steps() > 0).await;
    let bad = client(&engine, request(2, &[8, PANIC], 5));
    tokio::time::sleep(Duration::from_millis(50)).await;
    control.let_go();
    assert!(is_internal(&bad.await.unwrap()));
    for (i, client) in (0..).zip(clients) {
        assert_eq!(client.await.unwrap().unwrap().tokens(), alone(1, &[i; 9], 40));
    }
    let has_panicked =
        |step: &polylora_generation::StepBatch| step.rows.iter().any(|r| r.tokens.contains(&PANIC));
    let steps = control.steps.lock();
    let at = steps.iter().position(has_panicked).unwrap();
    assert!(at > 0 && steps[at].rows.len() == 1, "the device was lost while others had blocks");
    assert_eq!(metric(&engine, "vllm:num_preemptions_total"), 0.0, "nobody took their blocks");
    assert_eq!(control.builds.load(Ordering::SeqCst), 2);
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_device_had_is_found_in_no_cache() {
    let (engine, control) = start(configs()).await;
    let prompt = [9; 17];
    reply(&engine, request(1, &prompt, 3)).await.unwrap();
    assert_eq!(reply(&engine, request(1, &prompt, 3)).await.unwrap().cached_tokens, 16);
    assert!(is_internal(&reply(&engine, request(1, &[PANIC], 3)).await));
    let again = reply(&engine, request(1, &prompt, 3)).await.unwrap();
    assert_eq!((again.cached_tokens, again.tokens()), (0, &alone(1, &prompt, 3)[..]));
    assert_eq!(metric(&engine, "vllm:prefix_cache_hits_total"), 16.0, "what was counted stays counted");
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn logits_that_are_no_numbers_fail_their_own_request_alone() {
    let (engine, control) = start(configs()).await;
    let [mate, bad] = side_by_side(&engine, &control, NAN).await;
    control.let_go();
    assert!(is_internal(&bad.await.unwrap()));
    assert_eq!(mate.await.unwrap().unwrap().tokens(), alone(1, &[5; 6], 20));
    assert_eq!((metric(&engine, ERRORS), control.builds.load(Ordering::SeqCst)), (1.0, 1));
    assert!(is_empty(&engine));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_no_device_has_room_for_fails_its_own_request_alone() {
    let (engine, control) = start(configs()).await;
    control.hold();
    let mates: Vec<_> = (0..4).map(|i| client(&engine, request(i, &[7; 9], 12))).collect();
    let huge = client(&engine, request(HUGE, &[1; 4], 5));
    tokio::time::sleep(Duration::from_millis(50)).await;
    control.let_go();
    let too_large = GenerateError::AdapterTooLarge { bytes: 9, pool_bytes: 5 };
    assert_eq!(huge.await.unwrap().unwrap_err(), too_large);
    for (number, client) in (0..).zip(mates) {
        assert_eq!(client.await.unwrap().unwrap().tokens(), alone(number, &[7; 9], 12));
    }
    assert!(is_empty(&engine));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_costs_the_device_again_and_again_ends_nobody_elses_service() {
    let (engine, control) = start(configs()).await;
    for _ in 0..10 {
        assert!(is_internal(&reply(&engine, request(0, &[PANIC], 3)).await));
    }
    assert_eq!(reply(&engine, request(3, &[4; 5], 9)).await.unwrap().tokens(), alone(3, &[4; 5], 9));
    assert_eq!(engine.health(), Health::Ready);
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_lost_with_every_step_is_given_up() {
    let (engine, control) = start(configs()).await;
    control.is_broken.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        assert!(is_internal(&reply(&engine, request(0, &[1], 3)).await));
    }
    until("the engine has given up", || engine.health() == Health::Unavailable).await;
    assert!(is_unavailable(&reply(&engine, request(0, &[1], 3)).await));
    assert_eq!(control.builds.load(Ordering::SeqCst), 4);
    engine.shutdown(Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_does_not_come_back_leaves_nobody_waiting() {
    let (engine, control) = start(GenerationConfigs { max_running: some(1), ..configs() }).await;
    control.hold();
    let bad = client(&engine, request(0, &[PANIC], 3));
    until("it runs", || control.steps() == 1).await;
    let waiting: Vec<_> = (0..3).map(|i| client(&engine, request(i, &[7; 9], 12))).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    control.bad_builds.store(usize::MAX, Ordering::SeqCst);
    control.let_go();
    assert!(is_internal(&bad.await.unwrap()));
    for client in waiting {
        assert!(is_unavailable(&client.await.unwrap()));
    }
    assert_eq!(engine.health(), Health::Unavailable);
    assert!(is_unavailable(&reply(&engine, request(0, &[1], 3)).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_comes_back_at_the_second_attempt_is_taken() {
    let (engine, control) = start(configs()).await;
    control.bad_builds.store(1, Ordering::SeqCst);
    assert!(is_internal(&reply(&engine, request(0, &[PANIC], 3)).await));
    assert_eq!(reply(&engine, request(0, &[1], 3)).await.unwrap().tokens(), alone(0, &[1], 3));
}
