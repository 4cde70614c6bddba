//! The next token of one sequence.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::boltzmann::Boltzmann;
use crate::logit_blocks::{LogitBlocks, LogitsError};
use crate::logit_edits::LogitEdits;
use crate::logit_filters::{LogitFilters, Shortlist};
use crate::logprobs::TokenLogprobs;
use crate::penalties::Penalties;
use crate::random::RandomStream;
use crate::rank_key::RankKey;
use crate::sampling_params::{MAX_LOGIT_BIAS, SamplingParams};

/// What a [`SequenceSampler`] is made from.
#[derive(Clone, Copy, Debug)]
pub struct SamplerSetup<'a> {
    /// Checked parameters.
    pub params: &'a SamplingParams,
    /// The model's end-of-sequence ids.
    pub eos: &'a [u32],
    /// Token ids of the prompt, for the repetition penalty.
    pub prompt: &'a [u32],
    /// Stands in for the seed that the parameters do not name.
    pub seed: u64,
    /// Which of the `n` sequences of its request it is: equal seeds give each its own tokens.
    pub copy: u64,
}

/// A drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub token: u32,
    /// Its place in the model's distribution, where the parameters ask for it.
    pub logprobs: Option<TokenLogprobs>,
}

/// Memory for draws, one for any number of samplers that draw one after another.
#[derive(Clone, Debug, Default)]
pub struct DrawScratch {
    pub(crate) blocks: LogitBlocks,
    pub(crate) likeliest: Vec<RankKey>,
    shortlist: Shortlist,
    edits: Vec<(u32, f32)>,
}

/// Draws the tokens of one sequence.
///
/// The order is vLLM's: `min_tokens`, `logit_bias`, penalties; then the likeliest token when the temperature is (next to)
/// 0; else temperature, `min_p`, `top_k`, `top_p`, and one random number a token. What is drawn depends on the logits, the
/// parameters, the seed and the tokens drawn before, on nothing else.
///
/// Clones share what a request's sequences have in common.
#[derive(Clone, Debug)]
pub struct SequenceSampler {
    choice: Choice,
    logit_bias: Arc<[(u32, f32)]>,
    penalties: Option<Penalties>,
    min_tokens: usize,
    ends: Arc<BTreeSet<u32>>,
    logprobs: Option<usize>,
    random: RandomStream,
    drawn: usize,
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Likeliest,
    Random { temperature: f32, min_p: f32, filters: LogitFilters },
}

impl SequenceSampler {
    /// A sampler that has drawn nothing.
    pub fn new(setup: &SamplerSetup<'_>) -> Self {
        let SamplerSetup { params, eos, prompt, seed, copy } = *setup;
        let ends = Arc::new(eos.iter().chain(&params.stop_token_ids).copied().collect());
        let bias = |(&token, bias): (&u32, &f32)| (token, bias.clamp(-MAX_LOGIT_BIAS, MAX_LOGIT_BIAS));
        Self {
            choice: Choice::new(params),
            logit_bias: params.logit_bias.iter().map(bias).collect(),
            penalties: Penalties::new(params, prompt),
            min_tokens: params.min_tokens,
            ends,
            logprobs: params.logprobs.map(|count| count as usize),
            random: RandomStream::new(params.seed.map_or(seed, |seed| seed as u64), copy),
            drawn: 0,
        }
    }

    /// The same for the sequence number `copy` of the request. This one has drawn nothing.
    pub fn sibling(&self, copy: u64) -> Self {
        Self { random: self.random.sibling(copy), ..self.clone() }
    }

    /// Tokens drawn.
    pub fn drawn(&self) -> usize {
        self.drawn
    }

    /// Draws the next token from the logits `[vocabulary]` of the last position; they are changed meanwhile and are
    /// afterwards what they were.
    ///
    /// # Errors
    /// When the logits give no distribution; then nothing was drawn.
    pub fn draw(&mut self, logits: &mut [f32], scratch: &mut DrawScratch) -> Result<Drawn, LogitsError> {
        let mut log = std::mem::take(&mut scratch.edits);
        let mut edits = LogitEdits::new(logits, &mut log);
        self.edit(&mut edits);
        let chosen = self.choose(edits.logits(), scratch);
        edits.take_back();
        scratch.edits = log;
        let token = chosen?;
        let logprobs = match self.logprobs {
            Some(top) => Some(TokenLogprobs::of(logits, token, top, scratch)?),
            None => None,
        };
        self.drawn += 1;
        if let Some(penalties) = &mut self.penalties {
            penalties.count(token);
        }
        Ok(Drawn { token, logprobs })
    }

    fn edit(&self, edits: &mut LogitEdits<'_>) {
        if self.drawn < self.min_tokens {
            self.ends.iter().for_each(|&token| edits.forbid(token));
        }
        for &(token, bias) in self.logit_bias.iter() {
            edits.change(token, |logit| logit + bias);
        }
        if let Some(penalties) = &self.penalties {
            penalties.apply(edits);
        }
    }

    fn choose(&self, logits: &[f32], scratch: &mut DrawScratch) -> Result<u32, LogitsError> {
        let DrawScratch { blocks, shortlist, .. } = scratch;
        let peak = blocks.survey(logits)?;
        let Choice::Random { temperature, min_p, filters } = self.choice else {
            return Ok(blocks.best(logits, peak));
        };
        let weights = Boltzmann::new(peak, temperature).at_least(min_p);
        let target = |total| self.random.below(self.drawn as u64, total);
        Ok(if filters.are_off() {
            let total = blocks.weigh(logits, &weights);
            blocks.token_at(logits, &weights, target(total))
        } else {
            let total = shortlist.fill(logits, blocks, &weights, &filters);
            shortlist.token_at(&weights, target(total))
        })
    }
}

impl Choice {
    fn new(params: &SamplingParams) -> Self {
        if params.is_greedy() {
            return Self::Likeliest;
        }
        let top_k = usize::try_from(params.top_k).ok().and_then(NonZeroUsize::new);
        let top_p = (params.top_p < 1.0).then_some(params.top_p);
        let filters = LogitFilters { top_k, top_p };
        Self::Random { temperature: params.temperature, min_p: params.min_p, filters }
    }
}
