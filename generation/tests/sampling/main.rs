//! Laws of drawing, through the public door.

mod distribution;
mod faults;
mod logprobs;
mod parameters;
mod plain;
mod sequences;

use polylora_generation::{DrawScratch, SamplerSetup, SamplingParams, SequenceSampler};

/// A sampler of a request without eos and prompt.
fn sampler(params: &SamplingParams, seed: u64) -> SequenceSampler {
    SequenceSampler::new(&SamplerSetup { params, eos: &[], prompt: &[], seed, copy: 0 })
}

/// `count` tokens drawn from the same logits.
fn draw_many(params: &SamplingParams, logits: &[f32], count: usize) -> Vec<u32> {
    let (mut sampler, mut scratch) = (sampler(params, 1), DrawScratch::default());
    let mut logits = logits.to_vec();
    (0..count).map(|_| sampler.draw(&mut logits, &mut scratch).unwrap().token).collect()
}

/// The distinct ones of `count` tokens.
fn support(params: &SamplingParams, logits: &[f32], count: usize) -> Vec<u32> {
    let mut tokens = draw_many(params, logits, count);
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}
