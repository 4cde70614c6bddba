//! How the tokens of a request are drawn and when they end, as clients ask for it.

use std::collections::{BTreeMap, BTreeSet};

/// Below this temperature the likeliest token is taken.
pub const GREEDY_TEMPERATURE: f32 = 1e-5;
/// A bias is brought to `-MAX_LOGIT_BIAS..=MAX_LOGIT_BIAS`.
pub const MAX_LOGIT_BIAS: f32 = 100.0;
/// Sequences of one request.
pub const MAX_N: usize = 128;
/// Likeliest tokens that a reply names at each position.
pub const MAX_LOGPROBS: u32 = 20;
/// Stop strings of one request.
pub const MAX_STOP_STRINGS: usize = 16;
/// Bytes of one stop string.
pub const MAX_STOP_BYTES: usize = 1024;
/// Token ids that end one request.
pub const MAX_STOP_TOKEN_IDS: usize = 1024;
/// Tokens whose logits one request adds to.
pub const MAX_LOGIT_BIASES: usize = 1024;

/// Sampling parameters: vLLM's names, meanings and defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Sequences to draw, 1 to [`MAX_N`]; more than one only with a temperature.
    pub n: usize,
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// The likeliest tokens that reach this share of the probability together are kept; above 0, 1 keeps all.
    pub top_p: f32,
    /// So many of the likeliest tokens are kept; 0 or -1 keeps all.
    pub top_k: i64,
    /// Tokens less likely than this share of the likeliest one's probability are dropped; 0 to 1.
    pub min_p: f32,
    /// Divides positive and multiplies other logits of tokens in prompt and output; above 0, 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken off the logits of tokens in the output; -2 to 2.
    pub presence_penalty: f32,
    /// Taken off the logits of tokens in the output once for each time they are there; -2 to 2.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens, after it was brought to -100 to 100.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Makes the draws repeatable.
    pub seed: Option<i64>,
    /// Tokens before which neither an end-of-sequence token nor `stop` nor `stop_token_ids` ends the output.
    pub min_tokens: usize,
    /// Tokens after which the output ends; `None` when only the context bounds it.
    pub max_tokens: Option<usize>,
    /// Strings at which the output ends.
    pub stop: Vec<String>,
    /// Token ids at which the output ends.
    pub stop_token_ids: Vec<u32>,
    /// Whether the output goes on after the model's end-of-sequence token.
    pub ignore_eos: bool,
    /// Whether the stop string, or the text of the stop token, belongs to the output.
    pub include_stop_str_in_output: bool,
    /// Likeliest tokens to name at each position of the output, besides the drawn one.
    pub logprobs: Option<u32>,
    /// The same for the prompt.
    pub prompt_logprobs: Option<u32>,
    /// Whether special tokens have no text.
    pub skip_special_tokens: bool,
    /// Whether special tokens that have a text are set apart by spaces.
    pub spaces_between_special_tokens: bool,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            n: 1,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: None,
            min_tokens: 0,
            max_tokens: None,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            include_stop_str_in_output: false,
            logprobs: None,
            prompt_logprobs: None,
            skip_special_tokens: true,
            spaces_between_special_tokens: true,
        }
    }
}

/// A parameter that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplingError {
    /// A number outside its bounds, or no number.
    #[error("{field} must be {bounds}, got {found}")]
    OutOfBounds {
        /// Name of the parameter.
        field: &'static str,
        /// The bounds, in words.
        bounds: String,
        /// What was asked for.
        found: String,
    },
    /// A token id that the vocabulary has not.
    #[error("{field} has token id {token}, the vocabulary has {vocab_size} ids from 0")]
    TokenOutOfVocabulary {
        /// Name of the parameter.
        field: &'static str,
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A bias that is no number.
    #[error("logit_bias of token id {token} must be a number, got NaN")]
    BiasNotANumber {
        /// The token.
        token: u32,
    },
    /// More tokens at least than at most.
    #[error("min_tokens must be at most max_tokens, got {min_tokens} and {max_tokens}")]
    MinAboveMax {
        /// Asked for.
        min_tokens: usize,
        /// Asked for.
        max_tokens: usize,
    },
    /// Several sequences that would all be the same.
    #[error("n must be 1 when temperature is 0, got {n}: the likeliest tokens are the same each time")]
    GreedyCopies {
        /// Asked for.
        n: usize,
    },
    /// Too many stop strings.
    #[error("stop has {found} strings, at most {max} are taken", max = MAX_STOP_STRINGS)]
    TooManyStops {
        /// Strings found.
        found: usize,
    },
    /// A list of tokens that is too long.
    #[error("{field} has {found} token ids, at most {max} are taken")]
    TooManyTokens {
        /// Name of the parameter.
        field: &'static str,
        /// Ids found.
        found: usize,
        /// Ids taken.
        max: usize,
    },
    /// Ends that leave no token to begin with.
    #[error(
        "min_tokens is {min_tokens}, and all {vocab_size} token ids of the vocabulary are ends: none can be drawn"
    )]
    NothingToDraw {
        /// Asked for.
        min_tokens: usize,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A stop string that would stop everything.
    #[error("stop has an empty string at index {index}")]
    EmptyStop {
        /// Its index.
        index: usize,
    },
    /// A stop string that is too long.
    #[error("stop has a string of {bytes} bytes at index {index}, at most {max} are taken", max = MAX_STOP_BYTES)]
    StopTooLong {
        /// Its index.
        index: usize,
        /// Its length.
        bytes: usize,
    },
}

impl SamplingError {
    /// Name of the parameter that must change.
    pub fn field(&self) -> &'static str {
        match self {
            Self::OutOfBounds { field, .. }
            | Self::TokenOutOfVocabulary { field, .. }
            | Self::TooManyTokens { field, .. } => field,
            Self::BiasNotANumber { .. } => "logit_bias",
            Self::MinAboveMax { .. } => "min_tokens",
            Self::NothingToDraw { .. } => "stop_token_ids",
            Self::GreedyCopies { .. } => "n",
            Self::TooManyStops { .. } | Self::EmptyStop { .. } | Self::StopTooLong { .. } => "stop",
        }
    }
}

impl SamplingParams {
    /// Whether the likeliest token is taken each time.
    pub fn is_greedy(&self) -> bool {
        self.temperature < GREEDY_TEMPERATURE
    }

    /// Checks every parameter for a model of `vocab_size` token ids, of which `eos` end a sequence.
    ///
    /// # Errors
    /// The first parameter that is outside its bounds, with its name, its value and the bounds.
    pub fn check(&self, vocab_size: usize, eos: &[u32]) -> Result<(), SamplingError> {
        let is_penalty = |value: f32| (-2.0..=2.0).contains(&value);
        within("n", self.n, (1..=MAX_N).contains(&self.n), format!("1 to {MAX_N}"))?;
        let temperature = self.temperature;
        let is_temperature = temperature >= 0.0 && temperature.is_finite();
        within("temperature", temperature, is_temperature, "a finite number, at least 0")?;
        let is_top_p = self.top_p > 0.0 && self.top_p <= 1.0;
        within("top_p", self.top_p, is_top_p, "above 0 and at most 1")?;
        within("top_k", self.top_k, self.top_k >= -1, "at least 1, or 0 or -1 for all tokens")?;
        within("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1")?;
        let repetition = self.repetition_penalty;
        let is_factor = repetition > 0.0 && repetition.is_finite();
        within("repetition_penalty", repetition, is_factor, "a finite number above 0")?;
        within("presence_penalty", self.presence_penalty, is_penalty(self.presence_penalty), "-2 to 2")?;
        within("frequency_penalty", self.frequency_penalty, is_penalty(self.frequency_penalty), "-2 to 2")?;
        for (field, count) in [("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)] {
            let count = count.unwrap_or(0);
            within(field, count, count <= MAX_LOGPROBS, format!("0 to {MAX_LOGPROBS}"))?;
        }
        if self.is_greedy() && self.n > 1 {
            return Err(SamplingError::GreedyCopies { n: self.n });
        }
        self.check_lengths()?;
        self.check_stops()?;
        self.check_tokens(vocab_size)?;
        self.check_ends(vocab_size, eos)
    }

    fn check_lengths(&self) -> Result<(), SamplingError> {
        let Some(max_tokens) = self.max_tokens else { return Ok(()) };
        within("max_tokens", max_tokens, max_tokens >= 1, "at least 1")?;
        match self.min_tokens {
            min_tokens if min_tokens > max_tokens => {
                Err(SamplingError::MinAboveMax { min_tokens, max_tokens })
            }
            _ => Ok(()),
        }
    }

    /// Before `min_tokens` no end is drawn, so there must be something else.
    fn check_ends(&self, vocab_size: usize, eos: &[u32]) -> Result<(), SamplingError> {
        let min_tokens = self.min_tokens;
        // Most vocabularies are larger than all that could be ends.
        if min_tokens == 0 || self.stop_token_ids.len() + eos.len() < vocab_size {
            return Ok(());
        }
        let eos = if self.ignore_eos { &[] } else { eos };
        let ends: BTreeSet<u32> = eos.iter().chain(&self.stop_token_ids).copied().collect();
        match ends.range(..u32::try_from(vocab_size).unwrap_or(u32::MAX)).count() >= vocab_size {
            true => Err(SamplingError::NothingToDraw { min_tokens, vocab_size }),
            false => Ok(()),
        }
    }

    fn check_stops(&self) -> Result<(), SamplingError> {
        if self.stop.len() > MAX_STOP_STRINGS {
            return Err(SamplingError::TooManyStops { found: self.stop.len() });
        }
        for (index, stop) in self.stop.iter().enumerate() {
            match stop.len() {
                0 => return Err(SamplingError::EmptyStop { index }),
                bytes if bytes > MAX_STOP_BYTES => return Err(SamplingError::StopTooLong { index, bytes }),
                _ => {}
            }
        }
        Ok(())
    }

    fn check_tokens(&self, vocab_size: usize) -> Result<(), SamplingError> {
        for (field, found, max) in [
            ("logit_bias", self.logit_bias.len(), MAX_LOGIT_BIASES),
            ("stop_token_ids", self.stop_token_ids.len(), MAX_STOP_TOKEN_IDS),
        ] {
            if found > max {
                return Err(SamplingError::TooManyTokens { field, found, max });
            }
        }
        let biased = self.logit_bias.keys().map(|token| ("logit_bias", *token));
        let stops = self.stop_token_ids.iter().map(|token| ("stop_token_ids", *token));
        if let Some((field, token)) = biased.chain(stops).find(|(_, token)| *token as usize >= vocab_size) {
            return Err(SamplingError::TokenOutOfVocabulary { field, token, vocab_size });
        }
        match self.logit_bias.iter().find(|(_, bias)| bias.is_nan()) {
            Some((&token, _)) => Err(SamplingError::BiasNotANumber { token }),
            None => Ok(()),
        }
    }
}

fn within(
    field: &'static str,
    found: impl ToString,
    is_within: bool,
    bounds: impl Into<String>,
) -> Result<(), SamplingError> {
    match is_within {
        true => Ok(()),
        false => Err(SamplingError::OutOfBounds { field, bounds: bounds.into(), found: found.to_string() }),
    }
}
