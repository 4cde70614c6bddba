//! What fails, fails for those whom it concerns, and the engine goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use polylora_engine::*;

use crate::fakes::*;
use crate::harness::*;

fn is_internal<T>(answer: &Result<T, EmbedError>) -> bool {
    matches!(answer, Err(EmbedError::Internal { .. }))
}

fn is_unavailable<T>(answer: &Result<T, EmbedError>) -> bool {
    matches!(answer, Err(EmbedError::Unavailable { .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_answers_internal_to_those_in_flight_and_spares_those_who_wait() {
    let (engine, control) = start(config()).await;
    let in_flight = client(&engine, ids(None, &[&[GATE, PANIC]]));
    tokio::task::block_in_place(|| control.device_gate.wait_for_arrival());
    let waiting: Vec<_> = (0..20).map(|i| client(&engine, ids(Some("a2"), &[&[i]]))).collect();
    until("all rows are sent", || engine.in_flight().rows == 21).await;
    control.device_gate.open();
    assert!(is_internal(&in_flight.await.unwrap()));
    for (i, client) in waiting.into_iter().enumerate() {
        assert_eq!(client.await.unwrap().unwrap().embeddings, [embedding_of(Some(2), &[i as u32])]);
    }
    engine.embed(texts(None, &["later"])).await.unwrap();
    assert_eq!(engine.health(), Health::Ready);
    assert_eq!(control.builds.load(Ordering::SeqCst), 2);
    assert_eq!(metric(&engine, "polylora_worker_restarts_total"), 1.0);
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_batch_keeps_the_runner_and_a_lost_device_gets_a_new_one() {
    let (engine, control) = start(config()).await;
    assert!(is_internal(&engine.embed(ids(None, &[&[FAIL]])).await));
    engine.embed(texts(None, &["x"])).await.unwrap();
    assert_eq!(control.builds.load(Ordering::SeqCst), 1);
    assert!(is_internal(&engine.embed(ids(None, &[&[LOSE]])).await));
    engine.embed(texts(None, &["x"])).await.unwrap();
    assert_eq!(control.builds.load(Ordering::SeqCst), 2);
    assert_eq!(metric(&engine, "polylora_errors_total{code=\"internal\"}"), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_does_not_come_back_makes_the_engine_unavailable() {
    let (engine, control) = start(config()).await;
    control.good_builds.store(1, Ordering::SeqCst);
    let in_flight = client(&engine, ids(None, &[&[GATE, PANIC]]));
    tokio::task::block_in_place(|| control.device_gate.wait_for_arrival());
    let waiting = client(&engine, ids(None, &[&[5]]));
    until("the row is sent", || engine.in_flight().rows == 2).await;
    control.device_gate.open();
    assert!(is_internal(&in_flight.await.unwrap()));
    assert!(is_unavailable(&waiting.await.unwrap()));
    until("the engine has given up", || engine.health() == Health::Unavailable).await;
    assert!(is_unavailable(&engine.embed(texts(None, &["x"])).await));
    assert!(control.builds.load(Ordering::SeqCst) > 2, "it was tried more than once");
    assert_eq!(engine.in_flight().requests, 0);
    assert_eq!(engine.shutdown(Duration::from_secs(60)).await, Shutdown::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_device_cannot_be_set_up_says_why() {
    let control = control();
    let why = RunError::Start { reason: "no such device".to_owned() };
    let told = why.clone();
    let engine = start_with(&control, config(), Box::new(move || Err(told.clone()))).unwrap();
    assert_eq!(engine.ready().await, Err(StartError::Runner(why)));
    assert_eq!(engine.health(), Health::Unavailable);
    let panics = start_with(&control, config(), Box::new(|| panic!("no driver"))).unwrap();
    let told = panics.ready().await.unwrap_err().to_string();
    assert!(told.contains("no driver"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_starting_until_the_probe_came_back() {
    let control = control();
    let (gate, mut build) = (Arc::clone(&control), factory(&control));
    let slow: RunnerFactory = Box::new(move || {
        gate.device_gate.pass();
        build()
    });
    let engine = start_with(&control, config(), slow).unwrap();
    assert_eq!(engine.health(), Health::Starting);
    let early = client(&engine, texts(None, &["early"]));
    until("the early client was let in", || engine.in_flight().requests == 1).await;
    assert_eq!(engine.health(), Health::Starting);
    control.device_gate.open();
    engine.ready().await.unwrap();
    assert_eq!(engine.health(), Health::Ready);
    assert_eq!(early.await.unwrap().unwrap().embeddings, [embedding_of(None, &ids_of("early"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_not_finite_or_too_short_fails_alone() {
    let (engine, control) = start(config()).await;
    let held = hold_device(&engine, &control);
    let nan = client(&engine, ids(Some("a1"), &[&[8], &[NAN], &[9]]));
    let short = client(&engine, ids(Some("a1"), &[&[SHORT]]));
    let mate = client(&engine, ids(Some("a1"), &[&[4]]));
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 5.0).await;
    control.device_gate.open();
    held.await.unwrap();
    assert!(is_internal(&nan.await.unwrap()));
    assert!(is_internal(&short.await.unwrap()));
    assert_eq!(mate.await.unwrap().unwrap().embeddings, [embedding_of(Some(1), &[4])]);
    assert_eq!(control.batches.lock().len(), 3, "they were in one batch");
    assert_eq!(control.builds.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_pool_has_no_room_for_are_served_later_and_in_order() {
    let (engine, control) = start(config()).await;
    control.pool_room.store(1, Ordering::SeqCst);
    let held = hold_device(&engine, &control);
    let clients: Vec<_> = (0..30u32)
        .map(|i| (i, client(&engine, ids(Some(&format!("a{}", 1 + i % 6)), &[&[i], &[i, i]]))))
        .collect();
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 60.0).await;
    control.device_gate.open();
    held.await.unwrap();
    for (i, client) in clients {
        let number = Some(1 + (i % 6) as u8);
        let embeddings = client.await.unwrap().unwrap().embeddings;
        assert_eq!(embeddings, [embedding_of(number, &[i]), embedding_of(number, &[i, i])]);
    }
    assert!(metric(&engine, "polylora_rows_deferred_total") > 0.0);
    assert_eq!(metric(&engine, "polylora_rows_total"), 62.0);
    assert_eq!(engine.in_flight(), InFlight { requests: 0, rows: 0 });
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_any_room_fails_rows_instead_of_turning_for_ever() {
    let (engine, control) = start(config()).await;
    control.pool_room.store(0, Ordering::SeqCst);
    assert!(is_internal(&engine.embed(ids(Some("a1"), &[&[1]])).await));
    engine.embed(ids(None, &[&[1]])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_larger_than_the_pool_fails_its_own_rows_only() {
    let (engine, control) = start(config()).await;
    let held = hold_device(&engine, &control);
    let huge = client(&engine, ids(Some("huge"), &[&[1], &[2]]));
    let mate = client(&engine, ids(Some("a3"), &[&[3]]));
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 3.0).await;
    control.device_gate.open();
    held.await.unwrap();
    assert_eq!(huge.await.unwrap().unwrap_err(), EmbedError::AdapterTooLarge { bytes: 9, pool_bytes: 5 });
    assert_eq!(mate.await.unwrap().unwrap().embeddings, [embedding_of(Some(3), &[3])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_whose_load_panics_fails_its_requests_and_may_be_asked_again() {
    let (engine, control) = start(config()).await;
    for loads in 1..3 {
        assert!(is_internal(&engine.embed(texts(Some("panics"), &["x"])).await));
        assert_eq!(control.loads.load(Ordering::SeqCst), loads);
    }
    engine.embed(texts(Some("a1"), &["x"])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_that_make_no_sense_are_refused_with_the_field_and_the_numbers() {
    type Edit = fn(&mut EngineConfig);
    let most = u32::MAX as usize;
    let edits: [(Edit, &str, usize, usize); 6] = [
        (|c| c.max_concurrent_requests = 0, "max_concurrent_requests", 0, most),
        (|c| c.max_client_batch_size = 0, "max_client_batch_size", 0, 65_536),
        (|c| c.max_client_batch_size = 65_537, "max_client_batch_size", 65_537, 65_536),
        (|c| c.max_batch_tokens = 0, "max_batch_tokens", 0, usize::MAX),
        (|c| c.max_batch_rows = 0, "max_batch_rows", 0, usize::MAX),
        (|c| c.tokenize_threads = 0, "tokenize_threads", 0, 1024),
    ];
    for (edit, field, found, max) in edits {
        let (control, mut config) = (control(), config());
        edit(&mut config);
        let refused = start_with(&control, config, factory(&control)).err();
        assert_eq!(refused, Some(StartError::Config { field, found, min: 1, max }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_without_a_runner_is_refused() {
    let refused = start_instances(&control(), config(), vec![]).err();
    assert_eq!(refused, Some(StartError::Config { field: "runners", found: 0, min: 1, max: usize::MAX }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_fails_its_batch_or_makes_it_panic_fails_alone() {
    for (guilty, builds) in [(FAIL, 1), (PANIC, 6), (LOSE, 6)] {
        let (engine, control) = start(config()).await;
        let held = hold_device(&engine, &control);
        let mates: Vec<_> = (0..15u32)
            .map(|i| (i, client(&engine, ids(Some(&format!("a{}", 1 + i % 3)), &[&[i]]))))
            .collect();
        let bad = client(&engine, ids(Some("a1"), &[&[guilty]]));
        until("all rows wait", || metric(&engine, "polylora_queue_rows") == 16.0).await;
        control.device_gate.open();
        held.await.unwrap();
        assert!(is_internal(&bad.await.unwrap()), "{guilty}");
        for (i, client) in mates {
            let embeddings = client.await.unwrap().unwrap().embeddings;
            assert_eq!(embeddings, [embedding_of(Some(1 + (i % 3) as u8), &[i])], "{guilty}");
        }
        // Sixteen rows are halved four times; each failure of the device itself costs a runner.
        assert_eq!(control.builds.load(Ordering::SeqCst), builds, "{guilty}");
        assert_eq!(metric(&engine, "polylora_batch_retries_total"), 8.0);
        assert_eq!(metric(&engine, "polylora_rows_total"), 17.0);
        until("the engine is ready again", || engine.health() == Health::Ready).await;
        control.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_every_batch_is_not_tried_once_for_every_row() {
    let (engine, control) = start(config()).await;
    let rows = vec![[FAIL]; 500];
    let rows: Vec<&[u32]> = rows.iter().map(|row| &row[..]).collect();
    // Rows of one request: the first that fails answers for all. Rows of many are told one by one.
    assert!(is_internal(&engine.embed(ids(None, &rows)).await));
    let held = hold_device(&engine, &control);
    let clients: Vec<_> = (0..500).map(|_| client(&engine, ids(None, &[&[FAIL]]))).collect();
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 500.0).await;
    let before = control.batches.lock().len();
    control.device_gate.open();
    held.await.unwrap();
    for client in clients {
        assert!(is_internal(&client.await.unwrap()));
    }
    assert!(control.batches.lock().len() - before <= 64);
    engine.embed(texts(None, &["later"])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_lost_with_every_batch_costs_few_runners_and_makes_the_engine_unavailable() {
    let (engine, control) = start(config()).await;
    let held = hold_device(&engine, &control);
    let clients: Vec<_> = (0..100).map(|i| client(&engine, ids(None, &[&[i]]))).collect();
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 100.0).await;
    control.is_broken.store(true, Ordering::SeqCst);
    control.device_gate.open();
    assert!(is_internal(&held.await));
    for client in clients {
        assert!(is_internal(&client.await.unwrap()));
    }
    assert_eq!(control.batches.lock().len(), 1 + 1 + 3, "the probe, the held row, the batch and its halves");
    until("the device is there again", || engine.health() == Health::Ready).await;
    // The third batch in a row.
    assert!(is_internal(&engine.embed(texts(None, &["x"])).await));
    until("the engine has given up", || engine.health() == Health::Unavailable).await;
    until("it says so", || control.batches.lock().len() == 7).await;
    assert!(is_unavailable(&engine.embed(texts(None, &["x"])).await));
    assert_eq!(control.builds.load(Ordering::SeqCst), 1 + 1 + 3 + 1);
    assert_eq!(engine.shutdown(Duration::from_secs(60)).await, Shutdown::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_a_row_that_costs_the_device_again_and_again_ends_nobody_elses_service() {
    let (engine, control) = start(config()).await;
    for _ in 0..10 {
        assert!(is_internal(&engine.embed(ids(None, &[&[PANIC]])).await));
    }
    assert_eq!(engine.embed(ids(None, &[&[5]])).await.unwrap().embeddings, [embedding_of(None, &[5])]);
    until("the engine is ready", || engine.health() == Health::Ready).await;
    control.check();
}
