//! Warming up comes before everything else, once, and its failure is the start's.

use std::sync::atomic::Ordering;
use std::time::Duration;

use polylora_engine::*;

use crate::fakes::*;
use crate::harness::*;

fn shapes(tokens: &[usize]) -> Vec<WarmUpShape> {
    tokens.iter().map(|&tokens| WarmUpShape { rows: vec![tokens], rank: None }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_is_not_ready_and_computes_no_request_before_it_is_warm() {
    let control = control();
    *control.warm_up_plan.lock() = shapes(&[1, WARM_AT_GATE, 2]);
    let engine = start_with(&control, config(), factory(&control)).unwrap();
    tokio::task::block_in_place(|| control.device_gate.wait_for_arrival());
    let early = client(&engine, texts(None, &["early"]));
    until("the row waits", || engine.in_flight().rows == 1).await;
    assert_eq!(engine.health(), Health::Starting);
    assert!(control.batches.lock().is_empty());
    control.device_gate.open();
    engine.ready().await.unwrap();
    assert_eq!(*control.warmed.lock(), shapes(&[1, WARM_AT_GATE, 2]));
    early.await.unwrap().unwrap();
    assert!(metric(&engine, "polylora_warmup_seconds") > 0.0);
    let bounds = control.warm_up_bounds.lock().unwrap();
    assert_eq!(bounds, WarmUpBounds { max_batch_tokens: config().max_batch_tokens, adapters: false });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shape_that_cannot_be_computed_ends_the_start_and_says_what_to_do() {
    for failing in [WARM_FAIL, WARM_PANIC] {
        let control = control();
        *control.warm_up_plan.lock() = shapes(&[1, failing, 2]);
        let engine = start_with(&control, config(), factory(&control)).unwrap();
        let error = engine.ready().await.unwrap_err();
        assert!(matches!(error, StartError::Runner(_)), "{error:?}");
        let told = error.to_string();
        assert!(told.contains(&format!("{failing} tokens")) && told.contains("--max-batch-tokens"), "{told}");
        assert_eq!(control.warmed.lock().len(), 2);
        assert!(engine.embed(texts(None, &["x"])).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_is_built_again_is_warm_already() {
    let control = control();
    *control.warm_up_plan.lock() = shapes(&[1]);
    let engine = start_with(&control, config(), factory(&control)).unwrap();
    engine.ready().await.unwrap();
    assert!(engine.embed(ids(None, &[&[LOSE]])).await.is_err());
    engine.embed(texts(None, &["x"])).await.unwrap();
    assert_eq!(control.builds.load(Ordering::SeqCst), 2);
    assert_eq!(control.warmed.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_warmed_up_where_it_is_not_wanted() {
    let control = control();
    *control.warm_up_plan.lock() = shapes(&[1, WARM_PANIC]);
    let unwanted = EngineConfig { warm_up: false, ..config() };
    let engine = start_with(&control, unwanted, factory(&control)).unwrap();
    engine.ready().await.unwrap();
    assert!(control.warmed.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_the_rest_of_the_shapes() {
    let control = control();
    *control.warm_up_plan.lock() = shapes(&[WARM_AT_GATE, 1, 2, 3]);
    let engine = start_with(&control, config(), factory(&control)).unwrap();
    tokio::task::block_in_place(|| control.device_gate.wait_for_arrival());
    let stopped = tokio::spawn({
        let engine = std::sync::Arc::clone(&engine);
        async move { engine.shutdown(Duration::from_secs(20)).await }
    });
    until("the engine stops", || engine.health() == Health::Unavailable).await;
    control.device_gate.open();
    assert_ne!(stopped.await.unwrap(), Shutdown::Stuck);
    assert_eq!(control.warmed.lock().len(), 1);
}
