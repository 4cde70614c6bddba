//! Logits that are no distribution, and those that hardly are.

use polylora_generation::*;
use proptest::prelude::*;

use crate::sampler;

fn settings() -> [SamplingParams; 6] {
    let base = SamplingParams::default();
    [
        SamplingParams { temperature: 0.0, ..base.clone() },
        base.clone(),
        SamplingParams { top_k: 3, ..base.clone() },
        SamplingParams { top_p: 0.5, ..base.clone() },
        SamplingParams { min_p: 0.5, logprobs: Some(2), ..base.clone() },
        SamplingParams { logit_bias: [(0, 5.0)].into(), stop_token_ids: vec![0], min_tokens: 9, ..base },
    ]
}

proptest! {
    #[test]
    fn a_logit_that_is_nan_or_infinite_is_an_error_that_names_it(
        logits in prop::collection::vec(-5f32..5.0, 1..300),
        at in any::<prop::sample::Index>(),
        value in prop_oneof![Just(f32::NAN), Just(-f32::NAN), Just(f32::INFINITY)],
    ) {
        let at = at.index(logits.len());
        for params in settings() {
            let (mut sampler, mut scratch) = (sampler(&params, 1), DrawScratch::default());
            let mut faulty = logits.clone();
            faulty[at] = value;
            let error = sampler.draw(&mut faulty, &mut scratch).unwrap_err();
            let names = matches!(error, LogitsError::NotFinite { token, value: found }
                if token as usize == at && found.to_bits() == value.to_bits());
            prop_assert!(names, "{error}");
        }
    }

    #[test]
    fn a_failed_draw_draws_nothing(seed in any::<u64>(), failures in 0usize..3) {
        let params = SamplingParams { frequency_penalty: 1.0, ..SamplingParams::default() };
        let (mut tried, mut alone) = (sampler(&params, seed), sampler(&params, seed));
        let mut scratch = DrawScratch::default();
        for _ in 0..5 {
            for _ in 0..failures {
                tried.draw(&mut [f32::NAN; 4], &mut scratch).unwrap_err();
            }
            let one = tried.draw(&mut [1.0, 2.0, 3.0, 4.0], &mut scratch).unwrap();
            let other = alone.draw(&mut [1.0, 2.0, 3.0, 4.0], &mut scratch).unwrap();
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn the_only_token_that_is_allowed_is_drawn(
        count in 1usize..300,
        at in any::<prop::sample::Index>(),
        logit in -1e30f32..1e30,
    ) {
        let at = at.index(count);
        let mut logits = vec![f32::NEG_INFINITY; count];
        logits[at] = logit;
        for params in &settings()[..5] {
            let (mut sampler, mut scratch) = (sampler(params, 1), DrawScratch::default());
            let drawn = sampler.draw(&mut logits, &mut scratch).unwrap();
            prop_assert_eq!(drawn.token as usize, at);
            prop_assert!(drawn.logprobs.is_none_or(|logprobs| logprobs.logprob == 0.0 && logprobs.rank == 1));
        }
    }

    #[test]
    fn no_checked_parameters_and_finite_logits_fail_or_panic(
        logits in prop::collection::vec(any::<f32>().prop_filter("finite", |l| l.is_finite()), 2..200),
        numbers in any::<[f32; 7]>(),
        top_k in any::<i64>(),
        logprobs in prop::option::of(0u32..=20),
        bias in any::<f32>(),
    ) {
        let [temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, _] = numbers;
        let default = SamplingParams::default();
        let or = |value: f32, is_fine: bool, otherwise: f32| if is_fine { value } else { otherwise };
        let params = SamplingParams {
            temperature: or(temperature.abs(), temperature.is_finite(), 1.0),
            top_p: or(top_p.fract().abs(), top_p.fract().abs() > 0.0, 1.0),
            min_p: or(min_p.fract().abs(), min_p.is_finite(), 0.0),
            repetition_penalty: or(repetition_penalty.abs(), repetition_penalty.is_normal(), 1.0),
            presence_penalty: or(presence_penalty % 2.0, presence_penalty.is_finite(), 0.0),
            frequency_penalty: or(frequency_penalty % 2.0, frequency_penalty.is_finite(), 0.0),
            top_k: top_k.max(-1),
            logit_bias: [(1, or(bias, !bias.is_nan(), 0.0))].into(),
            logprobs,
            ..default
        };
        prop_assert_eq!(params.check(logits.len(), &[]), Ok(()));
        let setup = SamplerSetup { params: &params, eos: &[], prompt: &[0, 1, 7777], seed: 1, copy: 0 };
        let (mut sampler, mut scratch) = (SequenceSampler::new(&setup), DrawScratch::default());
        let mut given = logits.clone();
        for _ in 0..4 {
            let drawn = sampler.draw(&mut given, &mut scratch).unwrap();
            prop_assert!((drawn.token as usize) < logits.len());
        }
        prop_assert_eq!(given, logits);
    }
}

#[test]
fn without_a_token_to_draw_there_is_an_error() {
    for params in &settings()[..5] {
        let (mut sampler, mut scratch) = (sampler(params, 1), DrawScratch::default());
        for logits in [0, 1, 100] {
            let error = sampler.draw(&mut vec![f32::NEG_INFINITY; logits], &mut scratch).unwrap_err();
            assert_eq!(error, LogitsError::NoCandidate { logits });
        }
    }
}

#[test]
fn min_tokens_that_forbid_the_whole_vocabulary_are_an_error() {
    let params = SamplingParams { min_tokens: 1, stop_token_ids: vec![0, 1], ..SamplingParams::default() };
    let error = sampler(&params, 1).draw(&mut [1.0, 2.0], &mut DrawScratch::default()).unwrap_err();
    assert_eq!(error, LogitsError::NoCandidate { logits: 2 });
}
