//! The embedding memo changes no answer: it only spares work, and never remembers what failed.

use std::sync::Arc;

use polylora_engine::*;

use crate::fakes::*;
use crate::harness::*;

fn remembering() -> EngineConfig {
    EngineConfig { embedding_cache_bytes: 1 << 20, ..config() }
}

/// Rows that the device has computed, the probe's not counted.
fn computed(control: &Control) -> usize {
    control.batches.lock()[1..].iter().map(Vec::len).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_comes_again_is_answered_from_the_memo_for_its_own_adapter_only() {
    let (engine, control) = start(remembering()).await;
    for name in [None, Some("a1"), Some("a2")] {
        let number = name.map(|name| name[1..].parse().unwrap());
        for _ in 0..3 {
            let reply = engine.embed(ids(name, &[&[5], &[6]])).await.unwrap();
            assert_eq!(reply.embeddings, [embedding_of(number, &[5]), embedding_of(number, &[6])]);
        }
    }
    assert_eq!(computed(&control), 6);
    let reply = engine.embed(ids(Some("a2"), &[&[6], &[7], &[5], &[7]])).await.unwrap();
    let expected = [6, 7, 5, 7].map(|id| embedding_of(Some(2), &[id]));
    assert_eq!(reply.embeddings, expected);
    assert_eq!(computed(&control), 7, "one new row, twice in one request");
    assert_eq!(metric(&engine, "polylora_memo_misses_total"), 7.0);
    assert_eq!(metric(&engine, "polylora_memo_hits_total"), 15.0);
    assert!(metric(&engine, "polylora_memo_bytes") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_dimensions_come_from_the_same_row() {
    let (engine, control) = start(remembering()).await;
    let whole = engine.embed(texts(None, &["x"])).await.unwrap().embeddings.remove(0);
    let mut request = texts(None, &["x"]);
    request.dimensions = Some(3);
    let cut = engine.embed(request).await.unwrap().embeddings.remove(0);
    assert_eq!(computed(&control), 1);
    assert_eq!((whole.len(), cut.len()), (WIDTH, 3));
    let again = engine.embed(texts(None, &["x"])).await.unwrap().embeddings.remove(0);
    assert_eq!(again, whole, "the cut did not reach what is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_known_only_for_the_output_that_was_asked_for_and_token_states_are_computed_again() {
    let (engine, control) = start(remembering()).await;
    for (output, rows) in
        [(RowOutput::Embedding, 1), (RowOutput::Raw, 2), (RowOutput::Normalized, 3), (RowOutput::Tokens, 5)]
    {
        for _ in 0..2 {
            engine.embed(EmbedRequest { output, ..ids(None, &[&[5]]) }).await.unwrap();
        }
        assert_eq!(computed(&control), rows, "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_row_at_the_same_time_is_computed_once() {
    let (engine, control) = start(remembering()).await;
    let held = hold_device(&engine, &control);
    let clients: Vec<_> = (0..50).map(|_| client(&engine, ids(Some("a3"), &[&[9]]))).collect();
    until("all are in", || engine.in_flight().requests == 51).await;
    control.device_gate.open();
    held.await.unwrap();
    for client in clients {
        assert_eq!(client.await.unwrap().unwrap().embeddings, [embedding_of(Some(3), &[9])]);
    }
    assert_eq!(computed(&control), 2, "the row that held the device, and one");
    assert_eq!(metric(&engine, "polylora_memo_hits_total"), 49.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_client_leaves_whose_row_others_wait_for_one_of_them_has_it_computed() {
    let (engine, control) = start(remembering()).await;
    let held = hold_device(&engine, &control);
    let first = client(&engine, ids(None, &[&[9]]));
    until("his row waits", || metric(&engine, "polylora_queue_rows") == 1.0).await;
    let others: Vec<_> = (0..5).map(|_| client(&engine, ids(None, &[&[9]]))).collect();
    until("all are in", || engine.in_flight().requests == 7).await;
    first.abort();
    control.device_gate.open();
    held.await.unwrap();
    for other in others {
        assert_eq!(other.await.unwrap().unwrap().embeddings, [embedding_of(None, &[9])]);
    }
    until("all permits are back", || engine.in_flight() == InFlight { requests: 0, rows: 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_fail_are_not_kept_and_do_not_fail_those_who_have_the_same_row_later() {
    let (engine, control) = start(remembering()).await;
    for rows in 1..4 {
        assert!(engine.embed(ids(None, &[&[NAN]])).await.is_err());
        assert_eq!(computed(&control), rows);
    }
    assert_eq!(metric(&engine, "polylora_memo_hits_total"), 0.0);
    engine.embed(ids(None, &[&[1]])).await.unwrap();
}

/// Every row is a batch.
fn remembering_one_by_one() -> EngineConfig {
    EngineConfig { max_batch_rows: 1, ..remembering() }
}

/// How often the device was given this row.
fn times(control: &Control, id: u32) -> usize {
    control.batches.lock().iter().flatten().filter(|(_, ids)| *ids == [id]).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_one_row_of_a_long_request_does_not_wait_for_its_other_rows() {
    let (engine, control) = start(remembering_one_by_one()).await;
    let long = client(&engine, ids(None, &[&[9], &[GATE], &[10]]));
    tokio::task::block_in_place(|| control.device_gate.wait_for_arrival());
    let short = client(&engine, ids(None, &[&[9]]));
    until("the short request is answered while the long one is held", || short.is_finished()).await;
    assert_eq!(short.await.unwrap().unwrap().embeddings, [embedding_of(None, &[9])]);
    assert!(!long.is_finished());
    control.device_gate.open();
    let expected = [embedding_of(None, &[9]), embedding_of(None, &[GATE]), embedding_of(None, &[10])];
    assert_eq!(long.await.unwrap().unwrap().embeddings, expected);
    assert_eq!(times(&control, 9), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_computed_of_a_request_that_did_not_end_well_is_kept() {
    let (engine, control) = start(remembering_one_by_one()).await;
    assert!(engine.embed(ids(None, &[&[8], &[NAN]])).await.is_err());
    let leaves = client(&engine, ids(None, &[&[9], &[GATE], &[10]]));
    tokio::task::block_in_place(|| control.device_gate.wait_for_arrival());
    leaves.abort();
    assert!(leaves.await.unwrap_err().is_cancelled());
    control.device_gate.open();
    let reply = engine.embed(ids(None, &[&[8], &[9], &[10]])).await.unwrap();
    assert_eq!(reply.embeddings, [8, 9, 10].map(|id| embedding_of(None, &[id])));
    assert_eq!([8, 9, 10].map(|id| times(&control, id)), [1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_a_row_that_fails_are_told_so_by_its_one_computation() {
    for guilty in [NAN, FAIL, PANIC] {
        let (engine, control) = start(remembering()).await;
        let held = hold_device(&engine, &control);
        let clients: Vec<_> = (0..20).map(|_| client(&engine, ids(None, &[&[guilty]]))).collect();
        until("all are in", || engine.in_flight().requests == 21).await;
        until("the row waits", || metric(&engine, "polylora_queue_rows") == 1.0).await;
        control.device_gate.open();
        held.await.unwrap();
        for client in clients {
            assert!(matches!(client.await.unwrap(), Err(EmbedError::Internal { .. })), "{guilty}");
        }
        // Whoever comes when it has failed asks for a computation of his own.
        assert!(times(&control, guilty) < 10, "{guilty}: {} times", times(&control, guilty));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_the_sound_row_of_a_request_that_failed_has_it_computed() {
    let (engine, control) = start(remembering_one_by_one()).await;
    let held = hold_device(&engine, &control);
    let first = client(&engine, ids(None, &[&[NAN], &[9]]));
    until("his rows wait", || metric(&engine, "polylora_queue_rows") == 2.0).await;
    let others: Vec<_> = (0..5).map(|_| client(&engine, ids(None, &[&[9]]))).collect();
    until("all are in", || engine.in_flight().requests == 7).await;
    control.device_gate.open();
    held.await.unwrap();
    assert!(first.await.unwrap().is_err());
    for other in others {
        assert_eq!(other.await.unwrap().unwrap().embeddings, [embedding_of(None, &[9])]);
    }
    assert_eq!(times(&control, 9), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_for_each_others_rows_both_get_on() {
    let (engine, control) = start(remembering()).await;
    let held = hold_device(&engine, &control);
    let clients: Vec<_> = (0..40u32)
        .map(|i| {
            let (x, y) = (i % 7, (i * 3 + 1) % 7);
            (x, y, client(&engine, ids(None, &[&[x], &[y]])))
        })
        .collect();
    until("all are in", || engine.in_flight().requests == 41).await;
    control.device_gate.open();
    held.await.unwrap();
    for (x, y, client) in clients {
        let expected = [embedding_of(None, &[x]), embedding_of(None, &[y])];
        assert_eq!(client.await.unwrap().unwrap().embeddings, expected);
    }
    assert_eq!(computed(&control), 8, "the row that held the device, and seven");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_memo_every_row_is_computed() {
    let (engine, control) = start(config()).await;
    let engine = Arc::clone(&engine);
    for _ in 0..3 {
        engine.embed(ids(None, &[&[5], &[5]])).await.unwrap();
    }
    assert_eq!(computed(&control), 6);
    assert_eq!(metric(&engine, "polylora_memo_misses_total"), 0.0);
}
