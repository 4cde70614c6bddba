//! The ways to serve give the same answers; they differ in who shares a batch and how many devices there are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use polylora_engine::*;

use crate::fakes::*;
use crate::harness::*;

/// Clients of five domains whose rows all wait when the device is let go; gives the batches after the one that held it.
async fn run_in(mode: Mode, tick: Duration) -> Vec<Vec<SeenRow>> {
    let (engine, control) = start(EngineConfig { mode, tick, ..config() }).await;
    let held = hold_device(&engine, &control);
    let name = |i: u32| (!i.is_multiple_of(5)).then(|| format!("a{}", i % 5));
    let clients: Vec<_> =
        (0..30u32).map(|i| (i, client(&engine, ids(name(i).as_deref(), &[&[i, 7]])))).collect();
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 30.0).await;
    control.device_gate.open();
    held.await.unwrap();
    for (i, client) in clients {
        let number = Some((i % 5) as u8).filter(|&number| number > 0);
        assert_eq!(client.await.unwrap().unwrap().embeddings, [embedding_of(number, &[i, 7])], "{mode}");
    }
    assert_eq!(metric(&engine, "polylora_queue_rows"), 0.0);
    assert_eq!(engine.snapshot().mode, mode.to_string());
    control.check();
    let batches = control.batches.lock();
    batches[2..].to_vec()
}

const TICK: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread")]
async fn serial_computes_one_text_at_a_time_in_the_order_of_arrival() {
    let batches = run_in(Mode::Serial, TICK).await;
    assert_eq!(batches.len(), 30);
    assert!(batches.iter().all(|batch| batch.len() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_batches_hold_all_domains_with_a_tick_and_without() {
    for tick in [Duration::ZERO, Duration::from_millis(1), TICK] {
        let batches = run_in(Mode::Batched(Batching::Mixed), tick).await;
        assert_eq!(batches.len(), 1, "{tick:?}");
        assert_eq!(batches[0].len(), 30);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn domain_by_domain_each_batch_is_of_one_adapter_and_no_domain_is_left_out() {
    let batches = run_in(Mode::Batched(Batching::PerDomain), TICK).await;
    assert_eq!(batches.len(), 5);
    let domains: BTreeSet<_> = batches.iter().flatten().map(|(number, _)| *number).collect();
    assert_eq!(domains.len(), 5);
    assert!(batches.iter().all(|batch| batch.len() == 6 && batch.iter().all(|row| row.0 == batch[0].0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn pooled_instances_compute_at_the_same_time_each_with_threads_of_its_own() {
    let control = control();
    let runners = (0..3).map(|_| factory(&control)).collect();
    let config = EngineConfig { mode: Mode::Pooled, ..config() };
    let engine = start_instances(&control, config, runners).unwrap();
    engine.ready().await.unwrap();
    assert_eq!(control.batches.lock().len(), 3, "a probe went through each");
    assert_eq!(engine.snapshot().instances, 3);
    // Two devices stand still: whoever waited for them would never come back.
    let held: Vec<_> = (0..2).map(|_| client(&engine, ids(None, &[&[GATE]]))).collect();
    until("two devices are held", || control.batches.lock().len() == 5).await;
    for i in 0..20 {
        let reply = engine.embed(ids(Some("a1"), &[&[i], &[i, i]])).await.unwrap();
        assert_eq!(reply.embeddings, [embedding_of(Some(1), &[i]), embedding_of(Some(1), &[i, i])]);
    }
    control.device_gate.open();
    for held in held {
        held.await.unwrap().unwrap();
    }
    let runs = control.runs.lock();
    let threads: BTreeSet<_> = runs.iter().map(|(thread, _)| thread.as_str()).collect();
    assert_eq!(threads, BTreeSet::from(["device-1", "device-2", "device-3"]));
    let all = polylora_kernels::team::threads();
    assert!(runs.iter().all(|(_, threads)| *threads <= all.div_ceil(3)), "{runs:?}");
    assert!(control.batches.lock().iter().all(|batch| batch.len() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_ends_with_all_its_threads() {
    let control = control();
    let runners = (0..4).map(|_| factory(&control)).collect();
    let engine = start_instances(&control, EngineConfig { mode: Mode::Pooled, ..config() }, runners).unwrap();
    engine.ready().await.unwrap();
    let clients: Vec<_> = (0..40).map(|i| client(&engine, ids(None, &[&[i]]))).collect();
    until("all are in or served", || {
        metric(&engine, "polylora_requests_in_flight") > 0.0 || control.batches.lock().len() > 4
    })
    .await;
    for client in clients {
        client.await.unwrap().unwrap();
    }
    assert_eq!(engine.shutdown(Duration::from_secs(60)).await, Shutdown::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_ready_while_one_runs_and_takes_in_those_who_come_later() {
    let bounds = EngineConfig { tick: Duration::from_millis(1), max_batch_rows: 8, ..config() };
    let (engine, control) = start(bounds).await;
    let held = hold_device(&engine, &control);
    // Rows come over many ticks; those who left are no part of what is made ready.
    let mut clients = vec![];
    for i in 0..20u32 {
        clients.push(client(&engine, ids(Some(&format!("a{}", 1 + i % 3)), &[&[i]])));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 20.0).await;
    let left = clients.split_off(15);
    left.iter().for_each(|client| client.abort());
    until("five have left", || engine.in_flight().rows == 16).await;
    control.device_gate.open();
    held.await.unwrap();
    for (i, client) in clients.into_iter().enumerate() {
        let number = Some(1 + (i % 3) as u8);
        assert_eq!(client.await.unwrap().unwrap().embeddings, [embedding_of(number, &[i as u32])]);
    }
    until("all permits are back", || engine.in_flight() == InFlight { requests: 0, rows: 0 }).await;
    let batches = control.batches.lock();
    assert!(batches.iter().flatten().all(|(_, ids)| !(15..20).contains(&ids[0])), "{batches:?}");
    assert_eq!(batches[2..].iter().map(Vec::len).collect::<Vec<_>>(), [8, 7]);
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_finds_the_batch_that_is_ready() {
    let bounds = EngineConfig { tick: Duration::from_millis(1), ..config() };
    let (engine, control) = start(bounds).await;
    let held = hold_device(&engine, &control);
    let waiting = client(&engine, ids(None, &[&[1]]));
    until("the row waits", || metric(&engine, "polylora_queue_rows") == 1.0).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let stopping = Arc::clone(&engine);
    let shutdown = tokio::spawn(async move { stopping.shutdown(Duration::ZERO).await });
    until("it stops", || engine.health() == Health::Unavailable).await;
    // Time is up at once: the row that is ready is refused, not computed and not forgotten.
    tokio::time::sleep(Duration::from_millis(50)).await;
    control.device_gate.open();
    held.await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err(), EmbedError::ShuttingDown);
    assert_eq!(shutdown.await.unwrap(), Shutdown::Aborted { requests: 2 });
    assert_eq!(control.batches.lock().len(), 2);
}
