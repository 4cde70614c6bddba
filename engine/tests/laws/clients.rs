//! Clients that leave, that are too many, that wait for an adapter, that are there when the engine stops.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use polylora_engine::*;

use crate::fakes::*;
use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_his_permits_at_once_and_his_rows_before_they_are_picked() {
    let (engine, control) = start(config()).await;
    let held = hold_device(&engine, &control);
    let stays = client(&engine, ids(Some("a1"), &[&[11]]));
    let leaves: Vec<_> = (0..5).map(|_| client(&engine, ids(Some("a1"), &[&[666], &[666]]))).collect();
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 11.0).await;
    leaves.iter().for_each(|client| client.abort());
    until("their permits are back", || engine.in_flight() == InFlight { requests: 2, rows: 2 }).await;
    control.device_gate.open();
    held.await.unwrap();
    assert_eq!(stays.await.unwrap().unwrap().embeddings, [embedding_of(Some(1), &[11])]);
    until("all permits are back", || engine.in_flight() == InFlight { requests: 0, rows: 0 }).await;
    assert!(control.batches.lock().iter().flatten().all(|(_, ids)| ids[0] != 666));
    assert_eq!(metric(&engine, "polylora_requests_total{outcome=\"cancelled\"}"), 5.0);
    assert_eq!(metric(&engine, "polylora_requests_in_flight"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_who_wait_have_left_no_empty_batch_is_run() {
    let (engine, control) = start(config()).await;
    let held = hold_device(&engine, &control);
    let leaves: Vec<_> = (0..9).map(|i| client(&engine, ids(None, &[&[i]]))).collect();
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 9.0).await;
    leaves.iter().for_each(|client| client.abort());
    until("they have left", || engine.in_flight().rows == 1).await;
    control.device_gate.open();
    held.await.unwrap();
    engine.embed(texts(None, &["next"])).await.unwrap();
    assert_eq!(control.batches.lock().len(), 3, "the probe, the row that held the device, the next text");
    assert_eq!(metric(&engine, "polylora_queue_rows"), 0.0);
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_his_row_is_computed_hurts_nobody() {
    let (engine, control) = start(config()).await;
    let held = client(&engine, ids(None, &[&[GATE]]));
    tokio::task::block_in_place(|| control.device_gate.wait_for_arrival());
    held.abort();
    until("his permits are back", || engine.in_flight().requests == 0).await;
    control.device_gate.open();
    engine.embed(texts(None, &["x"])).await.unwrap();
    assert_eq!(control.builds.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_refuses_at_once_and_recovers_at_once() {
    let bounds = EngineConfig {
        max_concurrent_requests: 3,
        max_in_flight_rows: 5,
        max_client_batch_size: 5,
        ..config()
    };
    let (engine, control) = start(bounds).await;
    let held = hold_device(&engine, &control);
    let second = client(&engine, ids(None, &[&[1], &[2], &[3]]));
    until("two are in", || engine.in_flight() == InFlight { requests: 2, rows: 4 }).await;
    // The device stands still: a refusal that waited for it would never come.
    let full = engine.embed(ids(None, &[&[1], &[2]])).await.unwrap_err();
    assert_eq!(full, EmbedError::QueueFull { limit: 5 });
    let third = client(&engine, ids(None, &[&[4]]));
    until("three are in", || engine.in_flight().requests == 3).await;
    let over = engine.embed(ids(None, &[&[1]])).await.unwrap_err();
    assert_eq!(over, EmbedError::Overloaded { limit: 3 });
    assert_eq!(metric(&engine, "polylora_requests_total{outcome=\"overloaded\"}"), 2.0);
    control.device_gate.open();
    held.await.unwrap();
    second.await.unwrap().unwrap();
    third.await.unwrap().unwrap();
    until("all permits are back", || engine.in_flight() == InFlight { requests: 0, rows: 0 }).await;
    engine.embed(ids(None, &[&[1][..]; 5])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_and_go_in_hundreds_leave_nothing_behind() {
    let (engine, control) = start(EngineConfig { max_concurrent_requests: 16, ..config() }).await;
    let held = hold_device(&engine, &control);
    for round in 0..40 {
        let leaves: Vec<_> = (0..15).map(|i| client(&engine, ids(Some("a9"), &[&[round], &[i]]))).collect();
        // From the second round on the way to the device is full of rows that nobody waits for.
        until("they are in", || engine.in_flight().requests == 16).await;
        leaves.iter().for_each(|client| client.abort());
        until("they have left", || engine.in_flight().requests == 1).await;
    }
    control.device_gate.open();
    held.await.unwrap();
    for i in 0..30 {
        let reply = engine.embed(ids(Some("a1"), &[&[i]])).await.unwrap();
        assert_eq!(reply.embeddings, [embedding_of(Some(1), &[i])]);
    }
    assert_eq!(engine.in_flight(), InFlight { requests: 0, rows: 0 });
    assert_eq!(metric(&engine, "polylora_requests_total{outcome=\"cancelled\"}"), 600.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_is_slow_to_load_delays_its_own_requests_only_and_is_loaded_once() {
    let (engine, control) = start(config()).await;
    let slow: Vec<_> = (0..30).map(|i| client(&engine, ids(Some("slow-1"), &[&[i]]))).collect();
    let other = client(&engine, ids(Some("slow-2"), &[&[3]]));
    until("both load", || control.loads.load(Ordering::SeqCst) == 2).await;
    until("all are in", || engine.in_flight().requests == 31).await;
    // The gate is shut: whoever waited for it would never come back.
    engine.embed(texts(None, &["base"])).await.unwrap();
    engine.embed(texts(Some("a4"), &["other"])).await.unwrap();
    assert!(slow.iter().all(|client| !client.is_finished()));
    // A client that leaves does not take the load with him.
    slow[0].abort();
    control.adapter_gate.open();
    for (i, client) in slow.into_iter().enumerate().skip(1) {
        assert_eq!(client.await.unwrap().unwrap().embeddings, [embedding_of(Some(101), &[i as u32])]);
    }
    assert_eq!(other.await.unwrap().unwrap().embeddings, [embedding_of(Some(102), &[3])]);
    assert_eq!(control.loads.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_refuses_new_requests_and_serves_those_in_flight() {
    let (engine, control) = start(config()).await;
    let held = hold_device(&engine, &control);
    let waiting: Vec<_> = (0..10).map(|i| client(&engine, ids(Some("a1"), &[&[i]]))).collect();
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 10.0).await;
    let stopping = Arc::clone(&engine);
    let shutdown = tokio::spawn(async move { stopping.shutdown(Duration::from_secs(600)).await });
    until("it stops", || engine.health() == Health::Unavailable).await;
    assert_eq!(engine.embed(texts(None, &["late"])).await.unwrap_err(), EmbedError::ShuttingDown);
    control.device_gate.open();
    held.await.unwrap();
    for (i, client) in waiting.into_iter().enumerate() {
        assert_eq!(client.await.unwrap().unwrap().embeddings, [embedding_of(Some(1), &[i as u32])]);
    }
    assert_eq!(shutdown.await.unwrap(), Shutdown::Drained);
    assert_eq!(
        engine.shutdown(Duration::ZERO).await,
        Shutdown::Drained,
        "a second shutdown finds nothing to do"
    );
    assert_eq!(engine.embed(texts(None, &["late"])).await.unwrap_err(), EmbedError::ShuttingDown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_that_runs_out_of_time_says_how_many_it_left_and_answers_them() {
    let (engine, control) = start(config()).await;
    let stuck = client(&engine, ids(Some("slow-1"), &[&[1]]));
    until("it loads", || control.loads.load(Ordering::SeqCst) == 1).await;
    assert_eq!(engine.shutdown(Duration::ZERO).await, Shutdown::Aborted { requests: 1 });
    control.adapter_gate.open();
    assert_eq!(stuck.await.unwrap().unwrap_err(), EmbedError::ShuttingDown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_only_knows_the_service_can_stop_the_engine_too() {
    let (engine, control) = start(config()).await;
    let stuck = client(&engine, ids(Some("slow-1"), &[&[1]]));
    until("it loads", || control.loads.load(Ordering::SeqCst) == 1).await;
    let service: Arc<dyn EmbeddingService> = engine;
    service.shutdown(Duration::ZERO).await;
    assert_eq!(service.health(), Health::Unavailable);
    control.adapter_gate.open();
    assert_eq!(stuck.await.unwrap().unwrap_err(), EmbedError::ShuttingDown);
}

#[test]
fn an_adapter_too_large_is_the_clients_to_change_and_names_the_flag() {
    let error = EmbedError::AdapterTooLarge { bytes: 2, pool_bytes: 1 };
    assert_eq!(error.blame(), Blame::Client);
    assert!(error.to_string().contains("--lora-memory"), "{error}");
}

#[test]
fn an_engine_outside_a_runtime_is_refused() {
    let control = control();
    assert_eq!(start_with(&control, config(), factory(&control)).err(), Some(StartError::NoRuntime));
}
