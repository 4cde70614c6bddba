//! What a client gets: his own embeddings, in his order, whoever else is there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use polylora_engine::*;

use crate::fakes::*;
use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn batch_mates_do_not_change_a_rows_reply() {
    let (engine, control) = start(config()).await;
    let held = hold_device(&engine, &control);
    let names = [None, Some("a1"), Some("a2"), Some("a3")];
    let clients: Vec<_> =
        (0..40u32).map(|i| (i, client(&engine, ids(names[i as usize % 4], &[&[i], &[i, 7]])))).collect();
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 80.0).await;
    control.device_gate.open();
    held.await.unwrap();
    for (i, client) in clients {
        let number = Some((i % 4) as u8).filter(|&number| number > 0);
        let embeddings = client.await.unwrap().unwrap().embeddings;
        assert_eq!(embeddings, [embedding_of(number, &[i]), embedding_of(number, &[i, 7])]);
    }
    let batches = control.batches.lock();
    assert_eq!(batches.len(), 3, "the probe, the row that held the device, all that waited");
    assert_eq!(batches[2].len(), 80);
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_clients_gets_his_own_answer() {
    let (engine, control) = start(EngineConfig { max_batch_tokens: 100, ..config() }).await;
    let one = |i: usize| {
        let engine = Arc::clone(&engine);
        async move {
            let name = (!i.is_multiple_of(6)).then(|| format!("a{}", i % 6));
            let number = name.as_ref().map(|_| (i % 6) as u8);
            for round in 0..5 {
                let (first, second) = (format!("text {i}"), format!("round {round} of {i}"));
                let reply = engine.embed(texts(name.as_deref(), &[&first, &second])).await.unwrap();
                let expected = [&first, &second].map(|text| embedding_of(number, &ids_of(text)));
                assert_eq!(reply.embeddings, expected);
                assert_eq!(reply.tokens, ids_of(&first).len() + ids_of(&second).len());
            }
        }
    };
    let clients: Vec<_> = (0..200).map(|i| tokio::spawn(one(i))).collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(engine.in_flight(), InFlight { requests: 0, rows: 0 });
    assert_eq!(metric(&engine, "polylora_requests_total{outcome=\"ok\"}"), 1000.0);
    assert_eq!(metric(&engine, "polylora_rows_total"), 2001.0);
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_are_in_the_order_of_the_inputs_over_many_batches() {
    let (engine, control) = start(EngineConfig { max_batch_rows: 3, ..config() }).await;
    let rows: Vec<Vec<u32>> = (0..50u32).map(|i| vec![i; 1 + (i as usize * 7) % 20]).collect();
    let slices: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let reply = engine.embed(ids(Some("a5"), &slices)).await.unwrap();
    let expected: Vec<_> = rows.iter().map(|row| embedding_of(Some(5), row)).collect();
    assert_eq!(reply.embeddings, expected);
    assert!(control.batches.lock().len() >= 18);
    assert!(reply.timings.compute > Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn dimensions_cut_and_normalise_and_prompts_go_in_front() {
    let (engine, _control) = start(config()).await;
    assert_eq!(engine.model().prompts, ["query"]);
    let mut request = texts(None, &["x"]);
    request.dimensions = Some(3);
    request.prompt_name = Some("query".to_owned());
    let cut = engine.embed(request).await.unwrap().embeddings.remove(0);
    let whole = embedding_of(None, &ids_of("q:x"));
    assert_eq!(cut.len(), 3);
    let norm = whole[..3].iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    for (cut, value) in cut.iter().zip(whole) {
        assert!((f64::from(*cut) - f64::from(value) / norm).abs() < 1e-6);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_before_anything_is_tokenised() {
    let (engine, control) = start(EngineConfig { max_client_batch_size: 2, ..config() }).await;
    let tokenized = control.tokenized.load(Ordering::SeqCst);
    let with = |edit: fn(&mut EmbedRequest)| {
        let mut request = texts(None, &["a", "b"]);
        edit(&mut request);
        engine.embed(request)
    };
    let unknown = with(|r| r.adapter = Some("nobody".to_owned())).await.unwrap_err();
    assert_eq!(unknown, EmbedError::UnknownAdapter { name: "nobody".to_owned() });
    let refused = with(|r| r.adapter = Some("refused".to_owned())).await.unwrap_err();
    assert_eq!(refused.code(), "adapter_invalid");
    assert_eq!(with(|r| r.inputs.clear()).await.unwrap_err(), EmbedError::NoInputs);
    assert_eq!(with(|r| r.dimensions = Some(0)).await.unwrap_err().code(), "dimensions_out_of_range");
    assert_eq!(with(|r| r.prompt_name = Some(String::new())).await.unwrap_err().code(), "unknown_prompt");
    let too_many = with(|r| r.inputs.push(r.inputs[0].clone())).await.unwrap_err();
    assert_eq!(too_many, EmbedError::TooManyInputs { found: 3, max: 2 });
    assert_eq!(control.tokenized.load(Ordering::SeqCst), tokenized);
    assert_eq!(metric(&engine, "polylora_requests_total{outcome=\"client_error\"}"), 6.0);
    assert_eq!(metric(&engine, "polylora_errors_total{code=\"unknown_adapter\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_input_is_cut_or_refused_as_the_request_says() {
    let (engine, control) = start(config()).await;
    let long = "x".repeat(40);
    let mut request = texts(None, &["ok", &long]);
    let refused = engine.embed(request.clone()).await.unwrap_err();
    assert_eq!(refused, EmbedError::TooLong { index: 1, tokens: 42, max: MAX_TOKENS });
    request.truncate = true;
    let reply = engine.embed(request).await.unwrap();
    assert_eq!(reply.tokens, 4 + MAX_TOKENS);
    assert_eq!(control.batches.lock()[1][1].1, ids_of(&"x".repeat(MAX_TOKENS - 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_the_base_launch_no_lora_and_those_for_adapters_are_counted() {
    let (engine, _control) = start(config()).await;
    for _ in 0..10 {
        engine.embed(texts(None, &["base", "only"])).await.unwrap();
    }
    assert_eq!(metric(&engine, "polylora_lora_launches_total"), 0.0);
    engine.embed(texts(Some("a1"), &["x"])).await.unwrap();
    assert_eq!(metric(&engine, "polylora_lora_launches_total"), 1.0);
    for (name, value) in [
        ("polylora_batches_total", 12.0),
        ("polylora_rows_total", 22.0),
        ("polylora_compute_seconds_count", 12.0),
        ("polylora_queue_seconds_count", 22.0),
        ("polylora_batch_rows_count", 12.0),
        ("polylora_request_seconds_count", 11.0),
        ("polylora_adapters_resident", 7.0),
        ("polylora_adapter_bytes", 700.0),
        ("polylora_pool_adapters", 2.0),
        ("polylora_pool_bytes", 640.0),
    ] {
        assert_eq!(metric(&engine, name), value, "{name}");
    }
}
