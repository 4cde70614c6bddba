//! Log probabilities beside drawn tokens.

use polylora_generation::*;
use proptest::prelude::*;

use crate::{plain, sampler};

fn close(found: f32, expected: f64) -> bool {
    (f64::from(found) - expected).abs() < 1e-5 * (1.0 + expected.abs())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn logprobs_rank_and_top_are_those_of_a_plain_sort(
        logits in prop::collection::vec(prop_oneof![-20f32..20.0, (-3i8..4).prop_map(f32::from)], 1..500),
        token in any::<prop::sample::Index>(),
        top in 0usize..=20,
    ) {
        let token = token.index(logits.len());
        let found = TokenLogprobs::of(&logits, token as u32, top, &mut DrawScratch::default()).unwrap();
        let wide: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
        let expected: Vec<f64> = plain::softmax(&wide).iter().map(|p| p.ln()).collect();
        prop_assert!(close(found.logprob, expected[token]), "{} {}", found.logprob, expected[token]);
        prop_assert_eq!(found.rank, logits.iter().filter(|&&logit| logit >= logits[token]).count());
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap());
        order.truncate(top);
        prop_assert_eq!(found.top.len(), order.len());
        for (&(id, logprob), token) in found.top.iter().zip(order) {
            prop_assert_eq!(id as usize, token);
            prop_assert!(close(logprob, expected[token]));
        }
    }

    #[test]
    fn logprobs_are_of_the_logits_before_temperature_penalties_bias_and_filters(
        logits in prop::collection::vec(-5f32..5.0, 40..100),
        seed in any::<u64>(),
    ) {
        let params = SamplingParams {
            temperature: 2.0,
            top_k: 30,
            repetition_penalty: 1.7,
            logit_bias: [(3, 50.0), (4, -2.0)].into(),
            stop_token_ids: vec![3],
            min_tokens: 1,
            logprobs: Some(3),
            ..SamplingParams::default()
        };
        let (mut sampler, mut scratch) = (sampler(&params, seed), DrawScratch::default());
        let mut given = logits.clone();
        for _ in 0..3 {
            let drawn = sampler.draw(&mut given, &mut scratch).unwrap();
            let expected = TokenLogprobs::of(&logits, drawn.token, 3, &mut scratch).unwrap();
            prop_assert_eq!(drawn.logprobs, Some(expected));
        }
    }
}

#[test]
fn a_token_outside_the_top_has_its_logprob_all_the_same() {
    let logits = [0.0, 9.0, 8.0, 7.0];
    let found = TokenLogprobs::of(&logits, 0, 2, &mut DrawScratch::default()).unwrap();
    assert_eq!(found.rank, 4);
    assert_eq!(found.top.iter().map(|&(token, _)| token).collect::<Vec<_>>(), [1, 2]);
    assert!(found.logprob < found.top[1].1 - 7.9);
}

#[test]
fn zero_logprobs_give_the_drawn_tokens_alone_and_none_gives_nothing() {
    let mut scratch = DrawScratch::default();
    let mut draw = |logprobs| {
        let params = SamplingParams { logprobs, ..SamplingParams::default() };
        sampler(&params, 1).draw(&mut [0.0, 1.0], &mut scratch).unwrap().logprobs
    };
    assert!(draw(Some(0)).unwrap().top.is_empty());
    assert_eq!(draw(None), None);
}

#[test]
fn a_forbidden_token_has_the_logprob_minus_infinity_and_one_without_a_logit_is_an_error() {
    let (logits, mut scratch) = ([0.0, f32::NEG_INFINITY], DrawScratch::default());
    let found = TokenLogprobs::of(&logits, 1, 2, &mut scratch).unwrap();
    assert_eq!((found.logprob, found.rank), (f32::NEG_INFINITY, 2));
    assert_eq!(found.top, [(0, 0.0), (1, f32::NEG_INFINITY)]);
    let error = TokenLogprobs::of(&logits, 2, 2, &mut scratch).unwrap_err();
    assert_eq!(error, LogitsError::NoSuchToken { token: 2, logits: 2 });
}
