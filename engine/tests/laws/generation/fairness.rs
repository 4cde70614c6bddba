//! Embeddings and texts on one device.

use std::sync::Arc;
use std::time::Duration;

use polylora_engine::*;

use super::hash_device::{Control, alone};
use super::speaker::*;
use crate::harness::{config, hold_device, ids, start_with_turns, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_embedding_waits_for_the_step_that_is_under_way_however_many_texts_there_are_and_how_long() {
    let turns = DeviceTurns::default();
    let (embedder, embeddings) = start_with_turns(config(), turns.clone()).await;
    let control = Arc::new(Control::default());
    let speaker = Arc::new(start_with(configs(), &control, Some(turns)));
    speaker.ready().await.unwrap();
    control.hold();
    let texts: Vec<_> = (0..8).map(|i| client(&speaker, request(i, &[1; 20], 200))).collect();
    until("a step is under way", || control.steps() == 1).await;
    let mut allowed = 0;
    for round in 0..10 {
        until("the next step is under way", || control.steps() > allowed).await;
        let batches = embeddings.batches.lock().len();
        let embedder = Arc::clone(&embedder);
        let embedding = tokio::spawn(async move { embedder.embed(ids(Some("a1"), &[&[round]])).await });
        // The batch stands at the device's door.
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(embeddings.batches.lock().len(), batches, "both compute at one time");
        let before = allowed;
        while !embedding.is_finished() {
            control.allow(1);
            allowed += 1;
            until("the step ends", || embedding.is_finished() || control.steps() > allowed).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(allowed - before <= 2, "it waited for {} steps", allowed - before);
        embedding.await.unwrap().unwrap();
    }
    control.let_go();
    for (number, text) in (0..).zip(texts) {
        assert_eq!(text.await.unwrap().unwrap().tokens(), alone(number, &[1; 20], 200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_goes_on_while_embeddings_never_end() {
    let turns = DeviceTurns::default();
    let (embedder, embeddings) = start_with_turns(config(), turns.clone()).await;
    let control = Arc::new(Control::default());
    let speaker = start_with(configs(), &control, Some(turns));
    speaker.ready().await.unwrap();
    let held = hold_device(&embedder, &embeddings);
    let flood: Vec<_> = (0..4u32)
        .map(|i| {
            let embedder = Arc::clone(&embedder);
            tokio::spawn(async move {
                loop {
                    embedder.embed(ids(None, &[&[i]])).await.unwrap();
                }
            })
        })
        .collect();
    embeddings.device_gate.open();
    held.await.unwrap();
    assert_eq!(reply(&speaker, request(1, &[2; 9], 100)).await.unwrap().tokens(), alone(1, &[2; 9], 100));
    assert_eq!(metric(&speaker, "polylora_generation_steps_total"), 100.0);
    flood.iter().for_each(tokio::task::JoinHandle::abort);
}
