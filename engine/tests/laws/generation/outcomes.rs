//! What an adapter's source hears of how its versions answer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use polylora_engine::*;

use super::hash_device::{Control, HUGE, NAN, alone};
use super::speaker::*;
use crate::harness::until;

fn answers(control: &Control) -> Vec<(VersionId, bool)> {
    control.adapters.answers.lock().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_told_once_and_only_the_servers_own_failures_count() {
    let blocks = std::num::NonZeroU32::new(8).unwrap();
    let (engine, control) = start(GenerationConfigs { blocks, max_running: some(4), ..configs() }).await;
    reply(&engine, request(1, &[1; 5], 4)).await.unwrap();
    assert_eq!(answers(&control), [(VersionId(1), true)]);
    // The base is no version.
    reply(&engine, request(0, &[1; 5], 4)).await.unwrap();
    let mut many = request(2, &[1; 5], 3);
    (many.copies, many.sampling.temperature) = (5, Some(1.0));
    assert!(matches!(reply(&engine, many).await, Err(GenerateError::TooManyCopies { .. })));
    assert!(matches!(reply(&engine, request(2, &[1; 32], 7)).await, Err(GenerateError::TooLong { .. })));
    assert!(matches!(
        reply(&engine, request(HUGE, &[1; 4], 5)).await,
        Err(GenerateError::AdapterTooLarge { .. })
    ));
    assert_eq!(answers(&control).len(), 1, "what is the client's fault is no failure of the adapter");
    assert!(reply(&engine, request(3, &[NAN], 4)).await.is_err());
    assert_eq!(answers(&control)[1..], [(VersionId(3), false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_token_that_cannot_be_drawn_is_an_error_before_the_stream_begins() {
    let (engine, control) = start(configs()).await;
    let mut copies = request(1, &[5, NAN], 4);
    (copies.copies, copies.sampling.temperature) = (3, Some(1.0));
    for asked in [request(1, &[5, NAN], 4), copies] {
        let refused = engine.generate(asked).await.expect_err("no stream");
        assert!(matches!(refused, GenerateError::Internal { .. }), "{refused}");
    }
    assert_eq!(answers(&control), [(VersionId(1), false); 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_fails_later_counts_as_a_failure_and_no_success() {
    let (engine, control) = start(configs()).await;
    control.hold();
    let text = client(&engine, request(1, &[1; 5], 50));
    until("a step is under way", || control.steps() > 0).await;
    control.allow(5);
    until("it has begun", || control.steps() > 5).await;
    assert!(answers(&control).is_empty());
    control.is_broken.store(true, Ordering::SeqCst);
    control.allow(1);
    assert!(matches!(text.await.unwrap(), Err(GenerateError::Internal { .. })));
    assert_eq!(answers(&control), [(VersionId(1), false)]);
    control.is_broken.store(false, Ordering::SeqCst);
    control.let_go();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_half_way_had_an_answer_and_who_leaves_before_it_had_none() {
    let (engine, control) = start(configs()).await;
    let mut stream = engine.generate(request(1, &[1; 5], 200)).await.unwrap();
    stream.events.recv().await.unwrap().unwrap();
    drop(stream);
    until("it is let go", || is_empty(&engine)).await;
    assert_eq!(answers(&control), [(VersionId(1), true)]);
    control.hold();
    let early = client(&engine, request(2, &[1; 5], 200));
    until("its step is under way", || {
        control.steps.lock().last().is_some_and(|step| step.rows[0].context == 0)
    })
    .await;
    early.abort();
    assert!(early.await.unwrap_err().is_cancelled());
    control.let_go();
    reply(&engine, request(3, &[1; 5], 2)).await.unwrap();
    assert_eq!(answers(&control), [(VersionId(1), true), (VersionId(3), true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_thread_that_panics_leaves_an_engine_that_says_so_and_nobody_waiting() {
    let (engine, control) = start(configs()).await;
    control.hold();
    let mate = client(&engine, request(0, &[2; 5], 50));
    let bad = client(&engine, request(1, &[1; 5], 1));
    tokio::time::sleep(Duration::from_millis(50)).await;
    control.adapters.answers_panic.store(true, Ordering::SeqCst);
    control.let_go();
    let failed = mate.await.unwrap();
    assert!(matches!(failed, Err(GenerateError::Unavailable { .. })), "{failed:?}");
    // Its stream ends without its last event.
    drop(bad.await.unwrap());
    until("it says so", || engine.health() == Health::Unavailable).await;
    let later = reply(&engine, request(0, &[1; 5], 1)).await;
    assert!(matches!(later, Err(GenerateError::Unavailable { .. })), "{later:?}");
    engine.shutdown(Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_warms_up_is_ready_after_a_prompt_and_a_token() {
    let (engine, control) = start(GenerationConfigs { warm_up: true, ..configs() }).await;
    let seen: Vec<_> = control.steps.lock().iter().map(|step| step.rows[0].tokens.len()).collect();
    assert_eq!(seen, [32, 1]);
    let prompt = [0; 40];
    let first = reply(&engine, request(0, &prompt, 5)).await.unwrap();
    assert_eq!((first.cached_tokens, first.tokens()), (0, &alone(0, &prompt, 5)[..]));
    control.check();
    // A cache of one block has no room for a prompt and a token; one of two tokens has.
    let blocks = std::num::NonZeroU32::MIN;
    for (block_size, steps) in [(1, 1), (2, 2)] {
        let tight = GenerationConfigs { warm_up: true, blocks, block_size: some(block_size), ..configs() };
        let (_engine, control) = start(tight).await;
        assert_eq!(control.steps(), steps);
        control.check();
    }
}
