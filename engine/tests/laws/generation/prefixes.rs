//! What requests find of each other's prompts.

use std::sync::atomic::Ordering;

use polylora_engine::*;

use super::hash_device::{FLAKY, alone};
use super::speaker::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_an_early_chunk_poisons_no_retry() {
    let prompt: Vec<u32> = (0..30).map(|at| if at == 1 { FLAKY } else { 100 + at }).collect();
    for scores in [false, true] {
        let (engine, control) = start(GenerationConfigs { max_batch_tokens: some(4), ..configs() }).await;
        control.faults.store(1, Ordering::SeqCst);
        let mut asked = request(1, &prompt, 9);
        asked.sampling.prompt_logprobs = scores.then_some(1);
        let failed = reply(&engine, asked.clone()).await;
        assert!(matches!(failed, Err(GenerateError::Internal { .. })), "{failed:?}");
        for cached in [0, if scores { 0 } else { 28 }] {
            let again = reply(&engine, asked.clone()).await.unwrap();
            assert_eq!((again.cached_tokens, again.tokens()), (cached, &alone(1, &prompt, 9)[..]));
        }
        control.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_forgotten_by_those_too_who_took_it_from_the_cache() {
    let prompt: Vec<u32> = (0..30).map(|at| if at == 1 { FLAKY } else { 100 + at }).collect();
    let longer = [&prompt[..], &[7; 9]].concat();
    let (engine, control) = start(GenerationConfigs { max_batch_tokens: some(4), ..configs() }).await;
    control.faults.store(1, Ordering::SeqCst);
    control.hold();
    let clients = [&prompt, &longer].map(|prompt| client(&engine, request(1, prompt, 5)));
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    control.let_go();
    for client in clients {
        let _ = client.await.unwrap();
    }
    for prompt in [&prompt, &longer] {
        assert_eq!(reply(&engine, request(1, prompt, 5)).await.unwrap().tokens(), alone(1, prompt, 5));
    }
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_with_the_same_salt_share() {
    let (engine, control) = start(configs()).await;
    let salted = |salt: Option<&str>| {
        let cache_salt = salt.map(str::to_owned);
        GenerateRequest { cache_salt, ..request(1, &[9; 17], 3) }
    };
    let salts = [None, Some("one"), Some("two"), Some("")];
    for cached in [0, 16] {
        for salt in salts {
            let found = reply(&engine, salted(salt)).await.unwrap();
            assert_eq!(
                (found.cached_tokens, found.tokens()),
                (cached, &alone(1, &[9; 17], 3)[..]),
                "{salt:?}"
            );
        }
    }
    control.check();
}
