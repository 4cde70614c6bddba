//! What the engine says of its traffic: by adapter, within a bound, and true at every moment.

use polylora_engine::*;

use crate::harness::*;

fn domain(snapshot: &Snapshot, label: DomainLabel) -> (u64, usize) {
    let found = snapshot.domains.iter().find(|known| known.domain == label);
    found.map_or((0, 0), |found| (found.requests, found.waiting_rows))
}

#[tokio::test(flavor = "multi_thread")]
async fn running_and_waiting_requests_are_told_apart_and_so_are_the_domains_they_wait_in() {
    let (engine, control) = start(config()).await;
    let held = hold_device(&engine, &control);
    let law = client(&engine, ids(Some("a1"), &[&[1], &[2], &[3]]));
    let leaves = client(&engine, ids(Some("a2"), &[&[4]]));
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 4.0).await;
    let busy = engine.snapshot();
    assert_eq!((busy.running_requests, busy.waiting_requests), (1, 2));
    let label = |name: &str| DomainLabel::Adapter(name.to_owned());
    assert_eq!(domain(&busy, DomainLabel::Base), (1, 0));
    assert_eq!((domain(&busy, label("a1")), domain(&busy, label("a2"))), ((1, 3), (1, 1)));
    assert_eq!(metric(&engine, "vllm:num_requests_running"), 1.0);
    assert_eq!(metric(&engine, "vllm:num_requests_waiting"), 2.0);
    assert_eq!(metric(&engine, "polylora_adapter_queue_rows{adapter=\"a1\"}"), 3.0);
    leaves.abort();
    until("one has left", || engine.snapshot().waiting_requests == 1).await;
    control.device_gate.open();
    held.await.unwrap();
    law.await.unwrap().unwrap();
    let idle = engine.snapshot();
    assert_eq!((idle.running_requests, idle.waiting_requests), (0, 0));
    assert!(idle.domains.iter().all(|domain| domain.waiting_rows == 0), "{idle:?}");
    let latency = idle.latency.expect("two requests were answered");
    assert!(latency.p50 <= latency.p99);
    assert_eq!(metric(&engine, "polylora_adapter_requests_total{adapter=\"a1\"}"), 1.0);
    assert_eq!(metric(&engine, "polylora_adapter_requests_total{adapter=\"(base)\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_adapters_make_no_more_labels_than_the_bound_and_names_that_are_not_served_make_none() {
    let (engine, _control) = start(config()).await;
    for number in 1..=90 {
        engine.embed(ids(Some(&format!("a{number}")), &[&[1]])).await.unwrap();
        assert!(engine.embed(ids(Some(&format!("nobody{number}")), &[&[1]])).await.is_err());
    }
    let text = engine.render_metrics();
    let labels = text.lines().filter(|line| line.starts_with("polylora_adapter_requests_total{"));
    assert_eq!(labels.count(), 66, "the base, 64 adapters, the others");
    assert_eq!(metric(&engine, "polylora_adapter_requests_total{adapter=\"other\"}"), 26.0);
    assert!(!text.contains("nobody"));
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_in_a_batch_are_counted() {
    let (engine, control) = start(config()).await;
    let held = hold_device(&engine, &control);
    let clients: Vec<_> =
        [None, Some("a1"), Some("a2"), Some("a1")].map(|name| client(&engine, ids(name, &[&[1]]))).into();
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 4.0).await;
    control.device_gate.open();
    held.await.unwrap();
    for client in clients {
        client.await.unwrap().unwrap();
    }
    assert_eq!(metric(&engine, "polylora_batch_domains_sum"), 5.0, "the probe, the held row, three domains");
}
