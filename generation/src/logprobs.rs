//! Log probabilities of a token and of its rivals.

use crate::boltzmann::{Boltzmann, PEAK_MASS};
use crate::logit_blocks::LogitsError;
use crate::sampler::DrawScratch;

/// A token's place in the distribution that the model gave, before temperature, penalties and filters (vLLM's
/// `raw_logprobs`).
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Natural logarithm of the token's probability; minus infinity for a token that the model forbids.
    pub logprob: f32,
    /// 1 for the likeliest; tokens that are as likely count as likelier, as in vLLM.
    pub rank: usize,
    /// The likeliest tokens with their log probabilities, the likeliest first, of equals the lower id first. `token` is
    /// among them only when it is one of them.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// Those of `token` after the logits `logits` `[vocabulary]`, with the `top` likeliest tokens, or all when there are
    /// not so many. Serves drawn tokens and those of a prompt.
    ///
    /// # Errors
    /// When the logits give no distribution, or `token` has none.
    pub fn of(
        logits: &[f32],
        token: u32,
        top: usize,
        scratch: &mut DrawScratch,
    ) -> Result<Self, LogitsError> {
        let Some(&logit) = logits.get(token as usize) else {
            return Err(LogitsError::NoSuchToken { token, logits: logits.len() });
        };
        let DrawScratch { blocks, likeliest, .. } = scratch;
        let peak = blocks.survey(logits)?;
        let weights = Boltzmann::new(peak, 1.0);
        let log_total = (blocks.weigh(logits, &weights) as f64 / PEAK_MASS as f64).ln();
        let logprob = |logit: f32| (f64::from(logit) - f64::from(peak) - log_total) as f32;
        likeliest.clear();
        if top > 0 {
            let lowest = weights.exponent(blocks.reached_by(top));
            blocks.collect(logits, &weights, lowest, likeliest);
            likeliest.sort_unstable();
            likeliest.truncate(top);
        }
        Ok(Self {
            logprob: logprob(logit),
            rank: logits.iter().map(|&other| usize::from(other >= logit)).sum(),
            top: likeliest.iter().map(|key| (key.token(), logprob(key.logit()))).collect(),
        })
    }
}
