//! Copies of one prompt.

use std::collections::BTreeSet;

use polylora_engine::*;

use super::hash_device::alone;
use super::speaker::*;
use crate::harness::until;

const PROMPT: [u32; 10] = [7; 10];

fn copies(count: usize, seed: Option<i64>, max_tokens: usize) -> GenerateRequest {
    let mut request = request(1, &PROMPT, max_tokens);
    request.copies = count;
    request.sampling.temperature = Some(1.0);
    request.sampling.seed = seed;
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_compute_their_prompt_once_share_its_blocks_and_give_them_back() {
    let (engine, control) = start(configs()).await;
    let reply = reply(&engine, copies(4, Some(1), 9)).await.unwrap();
    assert_eq!(reply.copies.len(), 4);
    assert!(reply.copies.iter().all(|copy| copy.tokens.len() == 9 && copy.finish == Some(Finish::Length)));
    let steps = control.steps.lock();
    assert_eq!((steps[0].rows.len(), steps[0].rows[0].tokens.len()), (1, 10));
    // 10 tokens in blocks of 4: two full ones are shared, the third is copied for all but one.
    let tables: Vec<_> = steps[1].rows.iter().map(|row| row.blocks.clone()).collect();
    assert!(tables.len() == 4 && tables.iter().all(|table| table[..2] == tables[0][..2]), "{tables:?}");
    assert_eq!(tables.iter().map(|table| table[2]).collect::<BTreeSet<_>>().len(), 4);
    assert_eq!(steps[1].copies.len(), 3);
    assert!(is_empty(&engine));
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_gives_the_same_tokens_again_and_each_copy_its_own() {
    let (engine, _) = start(configs()).await;
    let first = reply(&engine, copies(3, Some(5), 20)).await.unwrap().copies;
    // Beside others this time, which have no seed.
    let others: Vec<_> = (0..4).map(|_| client(&engine, copies(2, None, 20))).collect();
    assert_eq!(reply(&engine, copies(3, Some(5), 20)).await.unwrap().copies, first);
    assert_ne!(reply(&engine, copies(3, Some(6), 20)).await.unwrap().copies, first);
    let mut all: BTreeSet<Vec<u32>> = first.into_iter().map(|copy| copy.tokens).collect();
    for other in others {
        all.extend(other.await.unwrap().unwrap().copies.into_iter().map(|copy| copy.tokens));
    }
    assert_eq!(all.len(), 3 + 4 * 2, "tokens were drawn twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_ends_earlier_leaves_the_others_theirs() {
    let (engine, control) = start(configs()).await;
    let whole = reply(&engine, copies(4, Some(3), 30)).await.unwrap().copies;
    let stop = whole[2].tokens[4];
    let mut stopped = copies(4, Some(3), 30);
    stopped.sampling.stop_token_ids = vec![stop];
    for (copy, whole) in reply(&engine, stopped).await.unwrap().copies.iter().zip(whole) {
        let end = whole.tokens.iter().position(|token| *token == stop).map_or(30, |at| at + 1);
        assert_eq!(copy.tokens, whole.tokens[..end]);
        let by = Finish::Stop { by: Some(StopMatch::Token(stop)) };
        assert_eq!(
            copy.finish,
            Some(if end == 30 && whole.tokens[29] != stop { Finish::Length } else { by })
        );
    }
    until("all blocks are back", || is_empty(&engine)).await;
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_one_is_not_changed_by_copies_beside_it() {
    let (engine, control) = start(configs()).await;
    let beside: Vec<_> = (0..4).map(|seed| client(&engine, copies(5, Some(seed), 25))).collect();
    assert_eq!(reply(&engine, request(1, &PROMPT, 25)).await.unwrap().tokens(), alone(1, &PROMPT, 25));
    for client in beside {
        client.await.unwrap().unwrap();
    }
    control.check();
}
