//! What is refused, and what happens at the end of the engine's own life.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use polylora_engine::*;

use super::hash_device::alone;
use super::speaker::*;
use crate::harness::{self, until};

async fn refused(engine: &GenerationEngine, request: GenerateRequest) -> GenerateError {
    engine.generate(request).await.expect_err("refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_one_too_many_is_refused_at_once() {
    let (engine, control) = start(GenerationConfigs { max_concurrent_requests: 2, ..configs() }).await;
    control.hold();
    let inside: Vec<_> = (0..2).map(|i| client(&engine, request(i, &[1; 5], 8))).collect();
    until("a step is under way", || control.steps() > 0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    // The device does not move: nobody could have waited for it.
    assert_eq!(refused(&engine, request(2, &[1; 5], 8)).await, GenerateError::Overloaded { limit: 2 });
    control.let_go();
    for client in inside {
        client.await.unwrap().unwrap();
    }
    assert_eq!(metric(&engine, "polylora_generation_errors_total{code=\"overloaded\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_his_last_token_or_his_error_may_ask_again() {
    let (engine, _) = start(GenerationConfigs { max_concurrent_requests: 1, ..configs() }).await;
    for i in 0..200 {
        match i % 3 {
            0 => drop(reply(&engine, request(0, &[super::hash_device::NAN], 1)).await.unwrap_err()),
            _ => assert_eq!(reply(&engine, request(0, &[i], 2)).await.unwrap().tokens(), alone(0, &[i], 2)),
        }
        assert!(is_empty(&engine), "its blocks are counted after its end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_its_numbers() {
    let blocks = NonZeroU32::new(8).unwrap();
    let (engine, control) = start(GenerationConfigs { blocks, max_running: some(4), ..configs() }).await;
    let too_long = |prompt, max_tokens, context| GenerateError::TooLong { prompt, max_tokens, context };
    assert_eq!(refused(&engine, request(0, &[], 5)).await, GenerateError::EmptyPrompt);
    assert_eq!(refused(&engine, request(0, &[1; 250], 7)).await, too_long(250, 7, 256));
    assert_eq!(refused(&engine, request(0, &[1; 32], 7)).await, too_long(32, 1, 32), "the whole cache");
    let unknown = GenerateError::TokenOutOfVocabulary { token: 512, vocab_size: 512 };
    assert_eq!(refused(&engine, request(0, &[1, 512], 5)).await, unknown);
    for (copies, max) in [(0, 128), (129, 128), (5, 4)] {
        let mut asked = request(0, &[1; 5], 3);
        asked.copies = copies;
        asked.sampling.temperature = Some(1.0);
        assert_eq!(refused(&engine, asked).await, GenerateError::TooManyCopies { found: copies, max });
    }
    assert_eq!(control.steps(), 0);
    // What outgrows the cache ends with it.
    let copy = reply(&engine, request(0, &[1; 20], 100)).await.unwrap().copies.remove(0);
    assert_eq!((copy.tokens, copy.finish), (alone(0, &[1; 20], 13), Some(Finish::Length)));
    assert_eq!(copy.text.len(), 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_is_refused_is_an_error_or_the_base_as_is_configured() {
    let refused_adapter = GenerateRequest { adapter: Some("refused".to_owned()), ..request(0, &[1; 5], 8) };
    let (engine, _) = start(configs()).await;
    let error = refused(&engine, refused_adapter.clone()).await;
    assert!(matches!(error, GenerateError::AdapterInvalid { .. }), "{error}");
    let unknown = GenerateRequest { adapter: Some("nobody".to_owned()), ..request(0, &[1; 5], 8) };
    assert_eq!(refused(&engine, unknown).await, GenerateError::UnknownAdapter { name: "nobody".to_owned() });
    let to_base = GenerationConfigs { on_adapter_error: OnAdapterError::Base, ..configs() };
    let (engine, _) = start(to_base).await;
    let stream = engine.generate(refused_adapter).await.unwrap();
    assert_eq!(metric(&engine, "polylora_adapter_fallbacks_total"), 1.0);
    assert!(stream.fallback_reason.as_ref().is_some_and(|reason| reason.contains("refused")));
    assert_eq!(read(stream).await.unwrap().tokens(), alone(0, &[1; 5], 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_beside_each_other_tell_one_figure_of_fallbacks() {
    let on_adapter_error = OnAdapterError::Base;
    let (embedder, _) = harness::start(EngineConfig { on_adapter_error, ..harness::config() }).await;
    let control = Arc::new(super::hash_device::Control::default());
    let to_base = GenerationConfigs { on_adapter_error, ..configs() };
    let speaker = start_beside(to_base, &control, None, embedder.adapter_fallbacks());
    speaker.ready().await.unwrap();
    for _ in 0..2 {
        embedder.embed(harness::ids(Some("refused"), &[&[1]])).await.unwrap();
    }
    let asked = GenerateRequest { adapter: Some("refused".to_owned()), ..request(0, &[1; 5], 8) };
    reply(&speaker, asked).await.unwrap();
    let name = "polylora_adapter_fallbacks_total";
    assert_eq!((metric(&speaker, name), harness::metric(&embedder, name)), (3.0, 3.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_with_time_serves_whoever_is_inside_and_nobody_else() {
    let (engine, control) = start(GenerationConfigs { max_running: some(2), ..configs() }).await;
    control.hold();
    let inside: Vec<_> = (0..5).map(|i| client(&engine, request(i, &[1; 5], 20))).collect();
    until("a step is under way", || control.steps() > 0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let stopping = Arc::clone(&engine);
    let shutdown = tokio::spawn(async move { stopping.shutdown(Duration::from_secs(60)).await });
    until("it stops", || engine.health() == Health::Unavailable).await;
    assert_eq!(refused(&engine, request(0, &[1], 1)).await, GenerateError::ShuttingDown);
    control.let_go();
    for (number, client) in (0..).zip(inside) {
        assert_eq!(client.await.unwrap().unwrap().tokens(), alone(number, &[1; 5], 20));
    }
    shutdown.await.unwrap();
    assert_eq!(Arc::strong_count(&control), 1, "the device is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_without_time_tells_everybody_that_it_breaks_off() {
    let (engine, control) = start(GenerationConfigs { max_running: some(2), ..configs() }).await;
    control.pace.store(5, Ordering::SeqCst);
    let mut running = engine.generate(request(0, &[1; 5], 200)).await.unwrap();
    running.events.recv().await.unwrap().unwrap();
    let others: Vec<_> = (0..5).map(|i| client(&engine, request(i, &[1; 5], 200))).collect();
    until("others run and wait", || metric(&engine, "vllm:num_requests_waiting") == 4.0).await;
    engine.shutdown(Duration::ZERO).await;
    assert_eq!(read(running).await.unwrap_err(), GenerateError::ShuttingDown);
    for client in others {
        assert_eq!(client.await.unwrap().unwrap_err(), GenerateError::ShuttingDown);
    }
    assert!(control.steps() < 200);
    assert_eq!(Arc::strong_count(&control), 1, "the device is free");
}
