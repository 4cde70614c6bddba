//! Which tokens are drawn, and how often.

use polylora_generation::*;
use proptest::prelude::*;

use crate::plain;
use crate::{draw_many, sampler, support};

fn params() -> impl Strategy<Value = SamplingParams> {
    let filters = (
        prop_oneof![Just(0i64), Just(-1), 1i64..50],
        prop_oneof![Just(1.0f32), 0.05f32..1.0],
        prop_oneof![Just(0.0f32), 0.0f32..0.3],
    );
    let penalties = (0.5f32..2.0, -2.0f32..2.0, -2.0f32..2.0);
    let bias = prop::collection::btree_map(0u32..30, -150f32..150.0, 0..4);
    (0.1f32..3.0, filters, penalties, any::<bool>(), bias, 0usize..6).prop_map(
        |(temperature, (top_k, top_p, min_p), penalties, is_penalised, logit_bias, min_tokens)| {
            let (repetition_penalty, presence_penalty, frequency_penalty) =
                if is_penalised { penalties } else { (1.0, 0.0, 0.0) };
            let stop_token_ids = vec![3, 1];
            SamplingParams {
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty,
                presence_penalty,
                frequency_penalty,
                logit_bias,
                min_tokens,
                stop_token_ids,
                ..SamplingParams::default()
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_draw_is_that_of_plain_sampling_in_f64(
        logits in prop::collection::vec(-12f32..12.0, 30..300),
        params in params(),
        prompt in prop::collection::vec(0u32..30, 0..10),
        seed in any::<u64>(),
    ) {
        let setup = SamplerSetup { params: &params, eos: &[2], prompt: &prompt, seed, copy: 5 };
        let (mut sampler, mut scratch) = (SequenceSampler::new(&setup), DrawScratch::default());
        let stream = RandomStream::new(seed, 5);
        let mut drawn = Vec::new();
        let mut given = logits.clone();
        for step in 0..8 {
            let token = sampler.draw(&mut given, &mut scratch).unwrap().token;
            let adjusted = plain::adjusted(&logits, &params, &[1, 2, 3], &prompt, &drawn);
            let uniform = stream.at(step) as f64 / 2f64.powi(64);
            // Where the nucleus ends a hair's breadth from `top_p`, either border will do.
            let p = f64::from(params.top_p);
            let agrees = [p - 1e-5, p, p + 1e-5].into_iter().any(|top_p| {
                plain::falls_on(&plain::probabilities(&adjusted, &params, top_p), uniform, token, 1e-5)
            });
            prop_assert!(agrees, "step {step}: token {token} at {uniform}");
            drawn.push(token);
        }
        prop_assert_eq!(sampler.drawn(), 8);
        prop_assert_eq!(given, logits, "a draw leaves the logits as they were");
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_the_likeliest_and_so_does_top_k_one(
        logits in prop::collection::vec((-3i8..4).prop_map(f32::from), 1..400),
    ) {
        let highest = logits.iter().copied().fold(f32::MIN, f32::max);
        let expected = logits.iter().position(|&logit| logit == highest).unwrap() as u32;
        let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
        let one = SamplingParams { top_k: 1, ..SamplingParams::default() };
        prop_assert_eq!(draw_many(&greedy, &logits, 3), [expected; 3]);
        prop_assert_eq!(draw_many(&one, &logits, 3), [expected; 3]);
    }
}

/// Logits of tokens with these probabilities.
fn logits_of(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

#[test]
fn top_p_keeps_the_token_that_crosses_the_border() {
    let logits = logits_of(&[0.15, 0.5, 0.05, 0.3]);
    for (top_p, kept) in [(0.1, vec![1]), (0.49, vec![1]), (0.51, vec![1, 3]), (0.79, vec![1, 3])] {
        let params = SamplingParams { top_p, ..SamplingParams::default() };
        assert_eq!(support(&params, &logits, 400), kept, "top_p {top_p}");
    }
    let params = SamplingParams { top_p: 0.96, ..SamplingParams::default() };
    assert_eq!(support(&params, &logits, 400), [0, 1, 2, 3]);
}

#[test]
fn top_p_counts_the_share_of_what_top_k_left() {
    // Of 0.5 and 0.3 the first has 0.625.
    let logits = logits_of(&[0.15, 0.5, 0.05, 0.3]);
    for (top_p, kept) in [(0.62, vec![1]), (0.63, vec![1, 3])] {
        let params = SamplingParams { top_k: 2, top_p, ..SamplingParams::default() };
        assert_eq!(support(&params, &logits, 400), kept, "top_p {top_p}");
    }
}

#[test]
fn top_k_keeps_exactly_k_of_equal_logits() {
    for k in [1, 2, 5] {
        let params = SamplingParams { top_k: k, ..SamplingParams::default() };
        let lowest: Vec<u32> = (0..k as u32).collect();
        assert_eq!(support(&params, &[2.0; 100], 400), lowest);
    }
    let more_than_there_are = SamplingParams { top_k: 1 << 40, ..SamplingParams::default() };
    assert_eq!(support(&more_than_there_are, &[2.0; 3], 400), [0, 1, 2]);
}

#[test]
fn min_p_is_a_share_of_the_likeliest_after_temperature() {
    let logits = logits_of(&[0.5, 0.3, 0.2]);
    let params = |min_p, temperature| SamplingParams { min_p, temperature, ..SamplingParams::default() };
    assert_eq!(support(&params(0.5, 1.0), &logits, 400), [0, 1]);
    assert_eq!(support(&params(0.5, 2.0), &logits, 400), [0, 1, 2]);
    assert_eq!(support(&params(1.0, 1.0), &logits, 400), [0]);
}

#[test]
fn ten_thousand_draws_have_the_shares_of_the_probabilities() {
    let shares = [0.4f32, 0.35, 0.2, 0.05];
    let tokens = draw_many(&SamplingParams::default(), &logits_of(&shares), 10_000);
    for (token, share) in shares.iter().enumerate() {
        let found = tokens.iter().filter(|&&drawn| drawn as usize == token).count() as f32 / 10_000.0;
        // Five standard deviations at most.
        assert!((found - share).abs() < 0.025, "token {token}: {found} for {share}");
    }
}

#[test]
fn a_bias_forbids_and_forces_and_is_clamped_to_a_hundred() {
    let biased = |token: u32, bias: f32| SamplingParams {
        logit_bias: [(token, bias)].into(),
        temperature: 0.0,
        ..SamplingParams::default()
    };
    assert_eq!(draw_many(&biased(1, -100.0), &[1.0, 2.0, 1.5], 1), [2]);
    assert_eq!(draw_many(&biased(0, 100.0), &[1.0, 2.0, 1.5], 1), [0]);
    assert_eq!(draw_many(&biased(0, f32::INFINITY), &[0.0, 99.0], 1), [0]);
    assert_eq!(draw_many(&biased(0, f32::INFINITY), &[0.0, 101.0], 1), [1]);
}

#[test]
fn negative_penalties_draw_the_same_token_again() {
    let params = SamplingParams { frequency_penalty: -2.0, temperature: 0.0, ..SamplingParams::default() };
    let (mut sampler, mut scratch) = (sampler(&params, 0), DrawScratch::default());
    let first = sampler.draw(&mut [1.0, 0.0], &mut scratch).unwrap().token;
    let second = sampler.draw(&mut [0.0, 1.9], &mut scratch).unwrap().token;
    assert_eq!([first, second], [0, 0]);
}
