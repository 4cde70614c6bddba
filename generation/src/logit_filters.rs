//! Which tokens may be drawn: top-k and top-p.

use std::num::NonZeroUsize;

use crate::boltzmann::{Boltzmann, PEAK_MASS};
use crate::logit_blocks::LogitBlocks;
use crate::rank_key::RankKey;

/// Top-k (Fan et al., arXiv 1805.04833), then top-p (nucleus sampling, Holtzman et al., arXiv 1904.09751) of what is
/// left. Both keep the best tokens down to a border; of equal logits the lower ids are the better ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LogitFilters {
    /// Tokens kept.
    pub top_k: Option<NonZeroUsize>,
    /// Share of the weight that the kept tokens reach together, above 0 and below 1; the token that reaches it is kept.
    pub top_p: Option<f32>,
}

impl LogitFilters {
    pub fn are_off(&self) -> bool {
        self.top_k.is_none() && self.top_p.is_none()
    }
}

/// The tokens that may be drawn, where they are not all. Its memory is used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shortlist {
    /// By id.
    kept: Vec<RankKey>,
    sorting: Vec<RankKey>,
}

impl Shortlist {
    /// Applies the filters to `logits`, which `blocks` have surveyed, and gives the weight of what they keep.
    pub fn fill(
        &mut self,
        logits: &[f32],
        blocks: &mut LogitBlocks,
        weights: &Boltzmann,
        filters: &LogitFilters,
    ) -> u64 {
        match (filters.top_k, filters.top_p) {
            (Some(count), top_p) => {
                let lowest = weights.exponent(blocks.reached_by(count.get())).max(weights.floor());
                blocks.collect(logits, weights, lowest, &mut self.kept);
                self.keep_best(count.get());
                let total = self.total(weights);
                match top_p {
                    Some(share) => self.keep_nucleus(weights, share_of(total, share)),
                    None => total,
                }
            }
            (None, Some(share)) => {
                let total = blocks.weigh(logits, weights);
                let goal = share_of(total, share);
                let lowest = exponent_of_crumbs(total - goal, logits.len()).max(weights.floor());
                blocks.collect(logits, weights, lowest, &mut self.kept);
                if self.total(weights) < goal {
                    blocks.collect(logits, weights, weights.floor(), &mut self.kept);
                }
                self.keep_nucleus(weights, goal)
            }
            (None, None) => {
                blocks.collect(logits, weights, weights.floor(), &mut self.kept);
                self.total(weights)
            }
        }
    }

    /// The token in whose part `target` falls when the kept weights lie one after another by id; `target` is below
    /// their sum.
    pub fn token_at(&self, weights: &Boltzmann, mut target: u64) -> u32 {
        let mut keys = self.kept.iter();
        loop {
            let key = keys.next().expect("the target is below the sum of the weights");
            let mass = weights.mass(key.logit());
            if target < mass {
                return key.token();
            }
            target -= mass;
        }
    }

    fn total(&self, weights: &Boltzmann) -> u64 {
        mass_of(&self.kept, weights)
    }

    fn keep_best(&mut self, count: usize) {
        if self.kept.len() > count {
            self.sorting.clone_from(&self.kept);
            let border = *self.sorting.select_nth_unstable(count - 1).1;
            self.kept.retain(|key| *key <= border);
        }
    }

    /// Keeps the best tokens that reach `goal` together and gives their weight.
    fn keep_nucleus(&mut self, weights: &Boltzmann, mut goal: u64) -> u64 {
        self.sorting.clone_from(&self.kept);
        // Halves what may hold the border until it is one token; what was passed is off the goal.
        let mut candidates = self.sorting.as_mut_slice();
        while candidates.len() > 1 {
            let (better, worse) = halves(candidates);
            let mass = mass_of(better, weights);
            if mass >= goal {
                candidates = better;
            } else {
                goal -= mass;
                candidates = worse;
            }
        }
        if let Some(&border) = candidates.first() {
            self.kept.retain(|key| *key <= border);
        }
        self.total(weights)
    }
}

fn halves(keys: &mut [RankKey]) -> (&mut [RankKey], &mut [RankKey]) {
    let middle = keys.len() / 2;
    keys.select_nth_unstable(middle);
    keys.split_at_mut(middle)
}

fn mass_of(keys: &[RankKey], weights: &Boltzmann) -> u64 {
    keys.iter().map(|key| weights.mass(key.logit())).sum()
}

/// `share` of `total`, rounded up; at least 1.
fn share_of(total: u64, share: f32) -> u64 {
    let goal = (f64::from(share) * total as f64).ceil() as u64;
    goal.clamp(1, total)
}

/// An exponent below which `count` weights together do not exceed `mass`, but for rounding.
fn exponent_of_crumbs(mass: u64, count: usize) -> f32 {
    let crumb = mass as f64 / count as f64;
    (crumb / PEAK_MASS as f64).log2() as f32 - 1e-3
}
