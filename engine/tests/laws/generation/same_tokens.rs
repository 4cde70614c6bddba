//! Whoever shares steps, blocks and a device, and in whatever parts his prompt comes: his tokens are those that he has alone.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use polylora_engine::*;

use super::hash_device::{Control, alone};
use super::speaker::*;

/// Prompts of 1 to 40 tokens, many of which begin alike, through the base and four adapters.
fn mix() -> Vec<(u8, Vec<u32>, usize)> {
    let one = |i: usize| {
        let (len, common) = (1 + i * 7 % 40, i * 5 % 30);
        let prompt = (0..len).map(|at| if at < common { at } else { at + i * 11 } as u32 % 400);
        ((i % 5) as u8, prompt.collect(), 1 + i * 13 % 24)
    };
    (0..40).map(one).collect()
}

/// Has all of [`mix`] generated at once, twice, and compares them with their oracle.
async fn compare(configs: GenerationConfigs, room: usize) -> (Arc<GenerationEngine>, Arc<Control>) {
    let (engine, control) = start(configs).await;
    control.room.store(room, Ordering::SeqCst);
    for _ in 0..2 {
        // So that they meet in the steps.
        control.hold();
        let clients: Vec<_> = mix()
            .into_iter()
            .map(|(number, prompt, count)| {
                let client = client(&engine, request(number, &prompt, count));
                (number, prompt, count, client)
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        control.let_go();
        for (number, prompt, count, client) in clients {
            let reply = client.await.unwrap().unwrap();
            assert_eq!(reply.tokens(), alone(number, &prompt, count), "a{number} after {prompt:?}");
            assert_eq!(reply.copies[0].finish, Some(Finish::Length));
        }
    }
    control.check();
    assert!(is_empty(&engine), "{}", engine.render_metrics());
    (engine, control)
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_many_adapters_in_one_step_are_each_as_alone() {
    let (engine, control) = compare(configs(), 0).await;
    let steps = control.steps.lock();
    assert!(steps.iter().any(|step| step.rows.len() > 8), "nobody shared a step");
    assert!(metric(&engine, "vllm:prefix_cache_hits_total") > 0.0);
    assert_eq!(metric(&engine, "vllm:num_preemptions_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_prefix_cache_they_are_the_same() {
    let (engine, _) = compare(GenerationConfigs { prefix_caching: false, ..configs() }, 0).await;
    assert_eq!(metric(&engine, "vllm:prefix_cache_queries_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn preempted_they_are_the_same() {
    for prefix_caching in [true, false] {
        let blocks = NonZeroU32::new(24).unwrap();
        let (engine, _) = compare(GenerationConfigs { blocks, prefix_caching, ..configs() }, 0).await;
        assert!(metric(&engine, "vllm:num_preemptions_total") > 0.0, "nobody was preempted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_prompts_in_parts_they_are_the_same() {
    for tokens in [1, 3, 10] {
        let (_, control) =
            compare(GenerationConfigs { max_batch_tokens: some(tokens), ..configs() }, 0).await;
        let steps = control.steps.lock();
        let size = |step: &polylora_generation::StepBatch| step.rows.iter().map(|row| row.tokens.len()).sum();
        assert!(steps.iter().map(size).all(|size: usize| size <= tokens));
        assert!(
            steps.iter().flat_map(|step| &step.rows).any(|row| row.draws.is_empty()),
            "no prompt was cut"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_adapter_finds_no_place_come_later_and_are_the_same() {
    for room in [1, 2, 3] {
        let (_, control) = compare(configs(), room).await;
        assert!(control.deferred.load(Ordering::SeqCst) > 0, "all found a place");
    }
    let most_adapters = Some(some(2));
    let (_, control) = compare(GenerationConfigs { most_adapters, ..configs() }, 0).await;
    let adapters = |step: &polylora_generation::StepBatch| {
        let mut keys: Vec<_> = step.rows.iter().filter_map(|row| row.domain.adapter()).collect();
        keys.dedup();
        keys.len()
    };
    assert!(control.steps.lock().iter().all(|step| adapters(step) <= 2));
}
