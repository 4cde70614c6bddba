//! Sampling as the papers say it, in f64, with sorts and without thought of speed.

use polylora_generation::SamplingParams;

/// Applies `min_tokens`, bias and penalties as vLLM does.
pub fn adjusted(
    logits: &[f32],
    params: &SamplingParams,
    ends: &[u32],
    prompt: &[u32],
    drawn: &[u32],
) -> Vec<f64> {
    let mut logits: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    for (token, logit) in logits.iter_mut().enumerate() {
        let token = token as u32;
        if drawn.len() < params.min_tokens && ends.contains(&token) {
            *logit = f64::NEG_INFINITY;
        }
        *logit += f64::from(params.logit_bias.get(&token).map_or(0.0, |bias| bias.clamp(-100.0, 100.0)));
        let times = drawn.iter().filter(|&&other| other == token).count();
        if times > 0 || prompt.contains(&token) {
            let penalty = f64::from(params.repetition_penalty);
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        *logit -= f64::from(params.frequency_penalty) * times as f64;
        *logit -= if times > 0 { f64::from(params.presence_penalty) } else { 0.0 };
    }
    logits
}

/// Probabilities after temperature, min-p, top-k and top-p.
pub fn probabilities(logits: &[f64], params: &SamplingParams, top_p: f64) -> Vec<f64> {
    let scaled: Vec<f64> = logits.iter().map(|logit| logit / f64::from(params.temperature)).collect();
    let mut probabilities = softmax(&scaled);
    let highest = probabilities.iter().copied().fold(0.0, f64::max);
    let least = f64::from(params.min_p) * highest;
    probabilities.iter_mut().filter(|p| **p < least).for_each(|p| *p = 0.0);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap());
    if params.top_k > 0 {
        order.iter().skip(params.top_k as usize).for_each(|&token| probabilities[token] = 0.0);
    }
    let total: f64 = probabilities.iter().sum();
    let mut before = 0.0;
    for token in order {
        let probability = probabilities[token] / total;
        if before >= top_p {
            probabilities[token] = 0.0;
        }
        before += probability;
    }
    let total: f64 = probabilities.iter().sum();
    probabilities.iter().map(|p| p / total).collect()
}

pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| (logit - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Whether `token` is where `uniform` (0 to 1) falls among the probabilities by id, but for `slack`.
pub fn falls_on(probabilities: &[f64], uniform: f64, token: u32, slack: f64) -> bool {
    let token = token as usize;
    let before: f64 = probabilities[..token].iter().sum();
    probabilities[token] > 0.0
        && uniform >= before - slack
        && uniform <= before + probabilities[token] + slack
}
