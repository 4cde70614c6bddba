//! What ends a text, and what of it is told.

use polylora_engine::*;

use super::hash_device::{LETTERS, alone};
use super::speaker::*;

/// The fixture's end of text.
const END: u32 = 511;
const PROMPT: [u32; 6] = [5; 6];

/// What the base writes after [`PROMPT`]: a letter a token.
fn written(count: usize) -> String {
    let letter = |token: u32| char::from(b'A' + (token - LETTERS.start()) as u8);
    alone(0, &PROMPT, count).into_iter().map(letter).collect()
}

fn of(sampling: SamplingRequest) -> GenerateRequest {
    let mut asked = request(0, &PROMPT, 24);
    asked.sampling = SamplingRequest { temperature: Some(0.0), max_tokens: Some(24), ..sampling };
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_text_ends_the_text_wherever_tokens_begin_and_is_not_told() {
    let (engine, _) = start(configs()).await;
    let whole = written(24);
    assert_eq!(reply(&engine, of(SamplingRequest::default())).await.unwrap().copies[0].text, whole);
    for (start, len) in [(0, 1), (0, 3), (4, 2), (7, 5), (20, 4)] {
        let stop = whole[start..start + len].to_owned();
        let at = whole.find(&stop).unwrap();
        for include in [false, true] {
            let copy = reply(
                &engine,
                of(SamplingRequest {
                    stop: vec!["!".to_owned(), stop.clone()],
                    include_stop_str_in_output: include,
                    ..SamplingRequest::default()
                }),
            );
            let copy = copy.await.unwrap().copies.remove(0);
            assert_eq!(copy.text, whole[..if include { at + len } else { at }], "{stop}");
            assert_eq!(copy.tokens.len(), at + len, "tokens after the stop text");
            assert_eq!(copy.finish, Some(Finish::Stop { by: Some(StopMatch::Text(stop.clone())) }));
        }
    }
    assert!(is_empty(&engine));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_become_a_stop_text_waits_and_comes_when_it_does_not() {
    let (engine, _) = start(configs()).await;
    let whole = written(24);
    // It begins as the text goes on and ends otherwise.
    let stop = format!("{}!", &whole[2..9]);
    let sampling = SamplingRequest { stop: vec![stop], ..SamplingRequest::default() };
    let mut stream = engine.generate(of(sampling)).await.unwrap();
    let mut told = String::new();
    for tokens in 1..=24 {
        let event = stream.events.recv().await.unwrap().unwrap();
        told += &event.text;
        assert!(whole.starts_with(&told) && told.len() <= tokens);
        match tokens {
            3..=9 => assert_eq!(told.len(), 2, "it was told before it was certain"),
            10 => assert_eq!(told.len(), 10),
            _ => {}
        }
    }
    assert_eq!(told, whole);
    assert!(stream.events.recv().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_models_own_end_ends_it_unless_it_is_ignored_or_comes_too_early() {
    let (engine, _) = start(configs()).await;
    let ending = SamplingRequest { logit_bias: vec![(END, 100.0)], ..SamplingRequest::default() };
    let copy = reply(&engine, of(ending.clone())).await.unwrap().copies.remove(0);
    assert_eq!((copy.tokens, copy.text.as_str()), (vec![END], ""));
    assert_eq!(copy.finish, Some(Finish::Stop { by: None }));
    let later = SamplingRequest { min_tokens: 3, ..ending.clone() };
    let copy = reply(&engine, of(later)).await.unwrap().copies.remove(0);
    assert_eq!((&copy.text[..], copy.tokens[3]), (&written(3)[..], END));
    let ignoring = SamplingRequest { ignore_eos: true, ..ending };
    let copy = reply(&engine, of(ignoring)).await.unwrap().copies.remove(0);
    assert_eq!((copy.tokens.len(), copy.finish), (24, Some(Finish::Length)));
}

#[tokio::test(flavor = "multi_thread")]
async fn drawn_tokens_have_their_place_in_the_models_distribution() {
    let (engine, _) = start(configs()).await;
    let sampling = SamplingRequest { logprobs: Some(2), ..SamplingRequest::default() };
    let mut stream = engine.generate(of(sampling)).await.unwrap();
    let mut offset = 0;
    while let Some(event) = stream.events.recv().await {
        for token in event.unwrap().tokens {
            assert_eq!((token.rank, token.top.len(), token.text_offset), (Some(1), 2, offset));
            assert_eq!((token.top[0].id, Some(token.top[0].logprob)), (token.id, token.logprob));
            assert!(token.logprob.unwrap() < 0.0 && token.top[1].logprob <= token.top[0].logprob);
            offset += 1;
        }
    }
    assert_eq!(offset, 24);
}
