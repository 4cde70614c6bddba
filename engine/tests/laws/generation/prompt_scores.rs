//! Log-probabilities of the tokens of a prompt.

use std::num::NonZeroU32;

use polylora_engine::*;

use super::hash_device::{NAN, alone, logits_alone};
use super::speaker::*;

const TOP: usize = 3;

fn scored(number: u8, prompt: &[u32], max_tokens: usize) -> GenerateRequest {
    let mut asked = request(number, prompt, max_tokens);
    asked.sampling.prompt_logprobs = Some(TOP);
    asked
}

/// Letters and others, so that some are likely and some are not.
fn prompt(len: usize) -> Vec<u32> {
    (0..len as u32).map(|at| if at % 3 == 0 { 300 + at } else { 32 + at * 7 % 26 }).collect()
}

/// Compares with the logarithm of the softmax of what the device gives a sequence that is alone.
fn check(number: u8, prompt: &[u32], told: &[GeneratedToken]) {
    assert_eq!(told.iter().map(|token| token.id).collect::<Vec<_>>(), prompt);
    let first = &told[0];
    assert_eq!((first.logprob, first.rank, first.top.len(), first.text_offset), (None, None, 0, 0));
    for (token, logits) in told[1..].iter().zip(logits_alone(number, prompt)) {
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let logprob = |id: u32| (f64::from(logits[id as usize]) - total.ln()) as f32;
        assert!((token.logprob.unwrap() - logprob(token.id)).abs() < 1e-4, "{token:?}");
        let at_least = logits.iter().filter(|logit| **logit >= logits[token.id as usize]).count();
        assert_eq!(token.rank, Some(at_least));
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        assert_eq!(token.top.iter().map(|top| top.id).collect::<Vec<_>>(), order[..TOP]);
        assert!(token.top.iter().all(|top| (top.logprob - logprob(top.id)).abs() < 1e-4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_of_a_prompt_is_judged_by_the_logits_before_it() {
    let (engine, control) = start(configs()).await;
    for (number, len) in [(0, 1), (0, 2), (1, 9), (2, 100)] {
        let prompt = prompt(len);
        let reply = reply(&engine, scored(number, &prompt, 5)).await.unwrap();
        check(number, &prompt, &reply.prompt_logprobs.as_ref().unwrap()[..]);
        assert_eq!(reply.tokens(), alone(number, &prompt, 5));
    }
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_parts_and_preempted_and_beside_others_they_are_the_same() {
    let roomy = configs();
    let blocks = NonZeroU32::new(30).unwrap();
    for (configs, is_preempted) in [
        (GenerationConfigs { max_batch_tokens: some(1), ..roomy }, false),
        (GenerationConfigs { max_batch_tokens: some(7), ..roomy }, false),
        (GenerationConfigs { max_batch_tokens: some(16), blocks, ..roomy }, true),
    ] {
        let (engine, control) = start(configs).await;
        control.hold();
        let clients: Vec<_> = (0..12u8)
            .map(|i| {
                let (number, prompt) = (i % 3, prompt(20 + usize::from(i)));
                let asked = if i % 4 == 3 { request } else { scored };
                let client = client(&engine, asked(number, &prompt, 20));
                (number, prompt, i % 4 != 3, client)
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        control.let_go();
        for (number, prompt, is_scored, client) in clients {
            let reply = client.await.unwrap().unwrap();
            assert_eq!(reply.tokens(), alone(number, &prompt, 20));
            assert_eq!(reply.prompt_logprobs.is_some(), is_scored);
            if let Some(told) = &reply.prompt_logprobs {
                check(number, &prompt, told);
            }
        }
        assert_eq!(metric(&engine, "vllm:num_preemptions_total") > 0.0, is_preempted);
        assert!(is_empty(&engine));
        control.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scored_prompt_takes_nothing_from_the_prefix_cache_and_leaves_its_blocks_to_others() {
    let (engine, _) = start(configs()).await;
    let prompt = prompt(21);
    for _ in 0..2 {
        let reply = reply(&engine, scored(1, &prompt, 3)).await.unwrap();
        assert_eq!(reply.cached_tokens, 0);
        check(1, &prompt, &reply.prompt_logprobs.unwrap());
    }
    assert_eq!(reply(&engine, request(1, &prompt, 3)).await.unwrap().cached_tokens, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_have_one_prompt_that_is_judged_once() {
    let (engine, control) = start(configs()).await;
    let prompt = prompt(30);
    let mut asked = scored(1, &prompt, 4);
    asked.copies = 3;
    asked.sampling.temperature = Some(1.0);
    let reply = reply(&engine, asked).await.unwrap();
    check(1, &prompt, &reply.prompt_logprobs.unwrap());
    assert_eq!(reply.copies.len(), 3);
    let judged: usize =
        control.steps.lock().iter().flat_map(|step| &step.rows).map(|r| r.targets.len()).sum();
    assert_eq!(judged, 29);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_where_the_tokens_begin_in_the_echoed_text() {
    let (engine, _) = start(configs()).await;
    let mut asked = scored(0, &[], 1);
    asked.prompt = Prompt::Text("Which city is 机器 the capital?".to_owned());
    asked.add_special_tokens = true;
    asked.echo = true;
    let stream = engine.generate(asked).await.unwrap();
    let text: Vec<char> = stream.prompt_text.as_ref().unwrap().chars().collect();
    let told = stream.prompt_logprobs.as_ref().unwrap();
    assert!(told[0].is_special && told.len() > 10);
    // The text is as it was sent, without what the tokenizer added.
    let is_whole = |token: &&GeneratedToken| !token.text.contains(char::REPLACEMENT_CHARACTER);
    for token in told.iter().filter(|token| !token.is_special).filter(is_whole) {
        let found: String = text[token.text_offset..].iter().take(token.text.chars().count()).collect();
        assert_eq!(found, token.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_cannot_be_judged_fails_alone() {
    let (engine, control) = start(configs()).await;
    control.hold();
    let bad = client(&engine, scored(0, &[5, NAN, 5], 3));
    let mate = client(&engine, scored(1, &prompt(9), 3));
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    control.let_go();
    assert!(matches!(bad.await.unwrap(), Err(GenerateError::Internal { .. })));
    check(1, &prompt(9), &mate.await.unwrap().unwrap().prompt_logprobs.unwrap());
    let mut too_many = scored(0, &prompt(9), 3);
    too_many.sampling.prompt_logprobs = Some(21);
    let refused = engine.generate(too_many).await.err().unwrap();
    assert!(matches!(refused, GenerateError::Sampling { field: "prompt_logprobs", .. }), "{refused}");
}
