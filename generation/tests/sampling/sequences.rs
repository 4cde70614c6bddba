//! What a sequence draws depends on itself alone.

use polylora_generation::*;
use proptest::prelude::*;

use crate::sampler;

/// The logits of one sequence's step: any function of both will do.
fn logits_at(sequence: u64, step: u64) -> Vec<f32> {
    let stream = RandomStream::new(sequence, 99);
    (0..200).map(|token| (stream.at(step * 200 + token) >> 40) as f32 / 2f32.powi(22)).collect()
}

fn varied(sequence: u64) -> SamplingParams {
    SamplingParams {
        temperature: [0.0, 0.7, 1.3][sequence as usize % 3],
        top_k: [0, 20][sequence as usize % 2],
        top_p: [1.0, 0.8, 0.95][sequence as usize / 2 % 3],
        presence_penalty: [0.0, 0.5][sequence as usize / 3 % 2],
        seed: Some(sequence as i64 / 4 - 3),
        ..SamplingParams::default()
    }
}

proptest! {
    #[test]
    fn a_seed_gives_the_same_tokens_whatever_else_is_drawn(order in prop::collection::vec(0u64..12, 1..120)) {
        let alone = |sequence: u64, steps: usize| -> Vec<u32> {
            let (mut sampler, mut scratch) = (sampler(&varied(sequence), 0), DrawScratch::default());
            let mut draw = |step| sampler.draw(&mut logits_at(sequence, step), &mut scratch).unwrap().token;
            (0..steps as u64).map(&mut draw).collect()
        };
        let mut scratch = DrawScratch::default();
        let mut samplers: Vec<_> = (0..12).map(|sequence| sampler(&varied(sequence), 0)).collect();
        let mut drawn = vec![Vec::new(); 12];
        for sequence in order {
            let at = sequence as usize;
            let mut logits = logits_at(sequence, drawn[at].len() as u64);
            drawn[at].push(samplers[at].draw(&mut logits, &mut scratch).unwrap().token);
        }
        for (sequence, tokens) in drawn.iter().enumerate() {
            prop_assert_eq!(tokens, &alone(sequence as u64, tokens.len()));
        }
    }
}

fn tokens_of(seed: Option<i64>, given: u64, copy: u64) -> Vec<u32> {
    let params = SamplingParams { seed, ..SamplingParams::default() };
    let setup = SamplerSetup { params: &params, eos: &[], prompt: &[], seed: given, copy };
    let (mut sampler, mut scratch) = (SequenceSampler::new(&setup), DrawScratch::default());
    (0..20).map(|_| sampler.draw(&mut [0.0; 1000], &mut scratch).unwrap().token).collect()
}

#[test]
fn the_copies_of_a_request_draw_different_tokens_and_each_the_same_again() {
    assert_ne!(tokens_of(Some(7), 0, 0), tokens_of(Some(7), 0, 1));
    assert_eq!(tokens_of(Some(7), 0, 1), tokens_of(Some(7), 0, 1));
}

#[test]
fn a_sibling_draws_what_the_sampler_of_its_number_does() {
    let params = SamplingParams {
        repetition_penalty: 1.3,
        logit_bias: [(3, 2.0)].into(),
        stop_token_ids: vec![5],
        min_tokens: 4,
        ..SamplingParams::default()
    };
    let setup = |copy| SamplerSetup { params: &params, eos: &[7], prompt: &[1, 2, 2], seed: 9, copy };
    let first = SequenceSampler::new(&setup(0));
    for copy in 0..4 {
        let (mut sibling, mut own) = (first.sibling(copy), SequenceSampler::new(&setup(copy)));
        let mut scratch = DrawScratch::default();
        for step in 0..20 {
            let mut logits = logits_at(1, step);
            let drawn = own.draw(&mut logits, &mut scratch).unwrap();
            assert_eq!(sibling.draw(&mut logits, &mut scratch).unwrap(), drawn);
        }
    }
}

#[test]
fn the_seed_of_the_request_goes_before_the_one_that_stands_in() {
    assert_eq!(tokens_of(Some(-7), 1, 0), tokens_of(Some(-7), 2, 0));
    assert_ne!(tokens_of(None, 1, 0), tokens_of(None, 2, 0));
    assert_eq!(tokens_of(None, 1, 0), tokens_of(Some(1), 9, 0));
}

#[test]
fn before_min_tokens_no_end_is_drawn_and_after_them_it_may_be() {
    let params = SamplingParams {
        temperature: 0.0,
        min_tokens: 3,
        stop_token_ids: vec![1],
        ignore_eos: true,
        ..SamplingParams::default()
    };
    let setup = SamplerSetup { params: &params, eos: &[2], prompt: &[], seed: 0, copy: 0 };
    let (mut sampler, mut scratch) = (SequenceSampler::new(&setup), DrawScratch::default());
    let mut draw = || sampler.draw(&mut [1.0, 2.0, 3.0], &mut scratch).unwrap().token;
    assert_eq!([draw(), draw(), draw(), draw()], [0, 0, 0, 2]);
}
