//! What parameters are refused, and in which words.

use polylora_generation::*;

fn refused(change: impl FnOnce(&mut SamplingParams)) -> (String, &'static str) {
    let mut params = SamplingParams::default();
    change(&mut params);
    let error = params.check(100, &[99]).unwrap_err();
    (error.to_string(), error.field())
}

fn taken(change: impl FnOnce(&mut SamplingParams)) {
    let mut params = SamplingParams::default();
    change(&mut params);
    assert_eq!(params.check(100, &[99]), Ok(()), "{params:?}");
}

/// Sets one parameter.
type Set = fn(&mut SamplingParams, f32);

#[test]
fn the_defaults_are_taken_and_draw_from_the_whole_distribution() {
    taken(|_| {});
    assert!(!SamplingParams::default().is_greedy());
}

#[test]
fn a_number_outside_its_bounds_is_refused_with_its_name_value_and_bounds() {
    let cases: [(Set, &str, &[f32]); 6] = [
        (|p, v| p.temperature = v, "temperature", &[-0.1]),
        (|p, v| p.top_p = v, "top_p", &[0.0, -0.5, 1.01]),
        (|p, v| p.min_p = v, "min_p", &[-0.01, 1.01]),
        (|p, v| p.repetition_penalty = v, "repetition_penalty", &[0.0, -1.0]),
        (|p, v| p.presence_penalty = v, "presence_penalty", &[-2.1, 2.1]),
        (|p, v| p.frequency_penalty = v, "frequency_penalty", &[-2.1, 2.1]),
    ];
    for (set, name, values) in cases {
        for &value in values.iter().chain(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]) {
            let (words, field) = refused(|params| set(params, value));
            assert_eq!(field, name);
            assert!(words.starts_with(&format!("{name} must be ")), "{words}");
            assert!(words.ends_with(&format!(", got {value}")), "{words}");
        }
    }
}

#[test]
fn the_bounds_themselves_are_taken() {
    taken(|p| p.temperature = 0.0);
    taken(|p| p.temperature = 100.0);
    taken(|p| p.top_p = f32::MIN_POSITIVE);
    taken(|p| (p.min_p, p.top_k) = (1.0, -1));
    taken(|p| (p.presence_penalty, p.frequency_penalty) = (-2.0, 2.0));
    taken(|p| (p.n, p.logprobs, p.prompt_logprobs) = (MAX_N, Some(MAX_LOGPROBS), Some(0)));
    taken(|p| (p.min_tokens, p.max_tokens) = (1, Some(1)));
    taken(|p| p.stop = vec!["x".repeat(MAX_STOP_BYTES); MAX_STOP_STRINGS]);
    taken(|p| p.logit_bias = [(99, 1e9)].into());
    taken(|p| p.stop_token_ids = vec![7; MAX_STOP_TOKEN_IDS]);
}

#[test]
fn counts_outside_their_bounds_are_refused() {
    assert_eq!(refused(|p| p.n = 0).0, "n must be 1 to 128, got 0");
    assert_eq!(refused(|p| p.n = MAX_N + 1).1, "n");
    let words = "n must be 1 when temperature is 0, got 2: the likeliest tokens are the same each time";
    assert_eq!(refused(|p| (p.n, p.temperature) = (2, 0.0)), (words.to_owned(), "n"));
    assert_eq!(refused(|p| p.top_k = -2).0, "top_k must be at least 1, or 0 or -1 for all tokens, got -2");
    assert_eq!(refused(|p| p.logprobs = Some(21)).0, "logprobs must be 0 to 20, got 21");
    assert_eq!(refused(|p| p.prompt_logprobs = Some(21)).1, "prompt_logprobs");
    assert_eq!(refused(|p| p.max_tokens = Some(0)).0, "max_tokens must be at least 1, got 0");
    let words = "min_tokens must be at most max_tokens, got 3 and 2";
    assert_eq!(refused(|p| (p.min_tokens, p.max_tokens) = (3, Some(2))), (words.to_owned(), "min_tokens"));
}

#[test]
fn stops_that_cannot_be_looked_for_are_refused() {
    let stops = |texts: Vec<String>| refused(|p| p.stop = texts);
    assert_eq!(stops(vec!["a".into(), String::new()]).0, "stop has an empty string at index 1");
    assert_eq!(stops(vec!["a".into(); 17]).0, "stop has 17 strings, at most 16 are taken");
    let words = "stop has a string of 1025 bytes at index 0, at most 1024 are taken";
    assert_eq!(stops(vec!["x".repeat(1025)]), (words.to_owned(), "stop"));
}

#[test]
fn token_ids_outside_the_vocabulary_are_refused() {
    let words = "logit_bias has token id 100, the vocabulary has 100 ids from 0";
    assert_eq!(refused(|p| p.logit_bias = [(100, 1.0)].into()), (words.to_owned(), "logit_bias"));
    assert_eq!(refused(|p| p.stop_token_ids = vec![1, u32::MAX]).1, "stop_token_ids");
    let words = "logit_bias of token id 7 must be a number, got NaN";
    assert_eq!(refused(|p| p.logit_bias = [(7, f32::NAN)].into()), (words.to_owned(), "logit_bias"));
}

#[test]
fn lists_of_tokens_that_are_too_long_are_refused() {
    let words = "stop_token_ids has 1025 token ids, at most 1024 are taken";
    assert_eq!(refused(|p| p.stop_token_ids = vec![1; 1025]), (words.to_owned(), "stop_token_ids"));
    let words = "logit_bias has 1025 token ids, at most 1024 are taken";
    assert_eq!(refused(|p| p.logit_bias = (0..1025).map(|token| (token, 1.0)).collect()).0, words);
}

#[test]
fn ends_that_leave_nothing_to_begin_with_are_refused() {
    let words = "min_tokens is 1, and all 100 token ids of the vocabulary are ends: none can be drawn";
    for ends in [0..100, 0..99] {
        // Token 99 is the model's own end.
        let all = |p: &mut SamplingParams| (p.min_tokens, p.stop_token_ids) = (1, ends.clone().collect());
        assert_eq!(refused(all), (words.to_owned(), "stop_token_ids"));
    }
    taken(|p| (p.min_tokens, p.stop_token_ids) = (1, (0..98).collect()));
    taken(|p| (p.min_tokens, p.stop_token_ids, p.ignore_eos) = (1, (0..99).collect(), true));
    taken(|p| p.stop_token_ids = (0..100).collect());
}
