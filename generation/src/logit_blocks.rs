//! Logits surveyed in blocks, so that most of them are looked at once.

use crate::boltzmann::{Boltzmann, MOST_LOGITS};
use crate::rank_key::RankKey;

/// Why nothing can be drawn from logits.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum LogitsError {
    /// A logit that no probability belongs to.
    #[error("the logit of token {token} is {value}, which gives no probability")]
    NotFinite {
        /// The first such token.
        token: u32,
        /// NaN or infinity; minus infinity is no error, it forbids a token.
        value: f32,
    },
    /// Every token is forbidden.
    #[error("all {logits} logits are minus infinity: there is no token to draw")]
    NoCandidate {
        /// Logits given, possibly none.
        logits: usize,
    },
    /// More logits than weights can be added up for.
    #[error("there are {found} logits, at most {max} can be drawn from")]
    TooMany {
        /// Logits given.
        found: usize,
        /// Logits allowed.
        max: usize,
    },
    /// The token whose probability is asked for has no logit.
    #[error("token {token} has no logit, there are {logits}")]
    NoSuchToken {
        /// The token.
        token: u32,
        /// Logits given.
        logits: usize,
    },
}

/// Logits in a block.
const BLOCK: usize = 64;
const LANES: usize = 8;

/// The highest logit and the weight of each block of one vocabulary. Its memory is used again by the next survey.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogitBlocks {
    maxima: Vec<f32>,
    masses: Vec<u64>,
    sorting: Vec<f32>,
}

impl LogitBlocks {
    /// Reads all logits once and gives the highest.
    ///
    /// # Errors
    /// When one is NaN or infinite, or none is finite.
    pub fn survey(&mut self, logits: &[f32]) -> Result<f32, LogitsError> {
        if logits.len() > MOST_LOGITS {
            return Err(LogitsError::TooMany { found: logits.len(), max: MOST_LOGITS });
        }
        self.maxima.clear();
        let (mut peak, mut all_fine) = (f32::NEG_INFINITY, true);
        for block in logits.chunks(BLOCK) {
            let (max, is_fine) = survey_block(block);
            self.maxima.push(max);
            peak = peak.max(max);
            all_fine &= is_fine;
        }
        if !all_fine && let Some(token) = logits.iter().position(|&logit| !is_fine(logit)) {
            return Err(LogitsError::NotFinite { token: token as u32, value: logits[token] });
        }
        if peak == f32::NEG_INFINITY {
            return Err(LogitsError::NoCandidate { logits: logits.len() });
        }
        Ok(peak)
    }

    /// The likeliest token of the surveyed `logits`; of several the one with the lowest id.
    pub fn best(&self, logits: &[f32], peak: f32) -> u32 {
        let block = self.maxima.iter().position(|&max| max == peak).unwrap_or(0);
        let within = logits[block * BLOCK..].iter().position(|&logit| logit == peak);
        (block * BLOCK + within.unwrap_or(0)) as u32
    }

    /// Weighs every block of the surveyed `logits` and gives the sum.
    pub fn weigh(&mut self, logits: &[f32], weights: &Boltzmann) -> u64 {
        self.masses.clear();
        let blocks = logits.chunks(BLOCK).zip(&self.maxima);
        self.masses.extend(blocks.map(|(block, &max)| match weights.mass(max) {
            0 => 0,
            _ => weights.total(block),
        }));
        self.masses.iter().sum()
    }

    /// The token in whose part `target` falls when the weights of the weighed `logits` lie one after another by id;
    /// `target` is below their sum.
    pub fn token_at(&self, logits: &[f32], weights: &Boltzmann, mut target: u64) -> u32 {
        let mut block = 0;
        while target >= self.masses[block] {
            target -= self.masses[block];
            block += 1;
        }
        let mut token = block * BLOCK;
        while target >= weights.mass(logits[token]) {
            target -= weights.mass(logits[token]);
            token += 1;
        }
        token as u32
    }

    /// A logit that at least `count` of the surveyed ones reach, near the highest such; `count` is not 0.
    pub fn reached_by(&mut self, count: usize) -> f32 {
        // Each of the `count` best blocks has a logit as high as the lowest of their maxima.
        if count > self.maxima.len() {
            return f32::NEG_INFINITY;
        }
        self.sorting.clone_from(&self.maxima);
        *self.sorting.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1
    }

    /// Puts the tokens whose weight's exponent is at least `lowest` into `found`, by id.
    pub fn collect(&self, logits: &[f32], weights: &Boltzmann, lowest: f32, found: &mut Vec<RankKey>) {
        found.clear();
        for (index, (block, &max)) in logits.chunks(BLOCK).zip(&self.maxima).enumerate() {
            if weights.exponent(max) < lowest {
                continue;
            }
            let tokens = (index * BLOCK) as u32..;
            let keys = tokens.zip(block).filter(|&(_, &logit)| weights.exponent(logit) >= lowest);
            found.extend(keys.map(|(token, &logit)| RankKey::new(token, logit)));
        }
    }
}

#[inline(always)]
fn is_fine(logit: f32) -> bool {
    logit < f32::INFINITY
}

/// The highest logit of a block, and whether all can be drawn from.
#[inline(always)]
fn survey_block(block: &[f32]) -> (f32, bool) {
    let (mut maxima, mut faults) = ([f32::NEG_INFINITY; LANES], [0u32; LANES]);
    let (wide, rest) = block.as_chunks::<LANES>();
    for logits in wide {
        for lane in 0..LANES {
            let logit = logits[lane];
            maxima[lane] = if logit > maxima[lane] { logit } else { maxima[lane] };
            faults[lane] |= u32::from(!is_fine(logit));
        }
    }
    for (lane, &logit) in rest.iter().enumerate() {
        maxima[lane] = if logit > maxima[lane] { logit } else { maxima[lane] };
        faults[lane] |= u32::from(!is_fine(logit));
    }
    let max = maxima.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    (max, faults.into_iter().all(|fault| fault == 0))
}
