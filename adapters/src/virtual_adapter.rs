//! Virtual adapters: a weighted sum of adapters as one adapter.
//!
//! Each part changes `W x` to `y_i`; the sum changes it to `W x + sum_i w_i (y_i - W x)`. No product is added up: the
//! parts' ranks stand one after the other, so the sum is exact up to the rounding of `w_i B_i`, and costs what its parts
//! cost together.

use std::{collections::BTreeSet, sync::Arc};

use polylora_kernels::extent::SiteSlot;

use crate::{
    BaseModel, Digest, DigestBuilder, LoadedAdapter, MAX_RANK, Site,
    weights::{FoldedSite, first_not_finite, lay_out},
};

/// Most parts of a virtual adapter.
pub const MAX_PARTS: usize = 16;

/// First field of a virtual adapter's digest.
const DOMAIN: &str = "polylora virtual adapter, layout 1";
/// How far the weights of parts with a bias may be from 1 in sum.
const SUM_TOLERANCE: f64 = 1e-6;

/// Why adapters cannot be added up.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ComposeError {
    /// Nothing to add up.
    #[error("a virtual adapter of no parts: expected 1 to {MAX_PARTS}")]
    NoParts,
    /// More parts than are added up.
    #[error("a virtual adapter of {found} parts: expected at most {MAX_PARTS}")]
    TooManyParts {
        /// How many.
        found: usize,
    },
    /// A weight that is a NaN or an infinity.
    #[error("part {part}: found weight {found}, expected a finite number")]
    Weight {
        /// The part's number, from 0.
        part: usize,
        /// Its weight.
        found: f32,
    },
    /// A part that was loaded for another base model.
    #[error(
        "part {part}: site {site} is not one of the base model's, expected an adapter that was loaded for it"
    )]
    ForeignSite {
        /// The part's number, from 0.
        part: usize,
        /// The number of the site that the base model lacks, or has with other widths.
        site: u32,
    },
    /// The ranks of one site's parts together.
    #[error("{site}: found rank {found} in sum, expected at most {MAX_RANK}")]
    Rank {
        /// The site's name.
        site: String,
        /// The sum.
        found: usize,
    },
    /// A bias that would have to be mixed with the base model's.
    #[error(
        "{site}: {with} of {parts} parts bring a bias and the weights sum to {sum}; expected a bias of every part \
         and a sum of 1, because a trained bias replaces the base model's"
    )]
    Bias {
        /// The site's name.
        site: String,
        /// How many parts bring a bias to the site.
        with: usize,
        /// How many parts have a weight other than zero.
        parts: usize,
        /// Sum of all weights.
        sum: f64,
    },
    /// A weighted value that f32 cannot hold.
    #[error("{site}: the sum's {what} has {value} at flat index {index}, expected finite values")]
    NotFinite {
        /// The site's name.
        site: String,
        /// `B`, gain or bias.
        what: &'static str,
        /// Where.
        index: usize,
        /// The value.
        value: f32,
    },
}

/// The weighted sum of the effects of `parts`, which were loaded for `base`, as one adapter.
///
/// Parts of weight zero are left out; a sum without effect is an empty extent. Its identity is that of its parts and
/// weights in the order given: the order changes no effect beyond rounding, but the digest.
///
/// # Errors
/// [`ComposeError`] with what stands against it.
pub fn compose(parts: &[(LoadedAdapter, f32)], base: &dyn BaseModel) -> Result<LoadedAdapter, ComposeError> {
    if parts.is_empty() {
        return Err(ComposeError::NoParts);
    }
    if parts.len() > MAX_PARTS {
        return Err(ComposeError::TooManyParts { found: parts.len() });
    }
    let mut sites = BTreeSet::new();
    for (part, (adapter, weight)) in parts.iter().enumerate() {
        if !weight.is_finite() {
            return Err(ComposeError::Weight { part, found: *weight });
        }
        for slot in adapter.extent.layout().slots() {
            let shape = slot.shape;
            let known = base.catalog().sites().get(shape.site.0 as usize);
            if known.is_none_or(|s| (s.in_width, s.out_width) != (shape.in_width, shape.out_width)) {
                return Err(ComposeError::ForeignSite { part, site: shape.site.0 });
            }
            sites.insert(shape.site);
        }
    }
    let weighted: Vec<&(LoadedAdapter, f32)> = parts.iter().filter(|(_, weight)| *weight != 0.0).collect();
    let folded = sites.into_iter().map(|site| SiteSum::new(base.catalog().site(site), &weighted).fold());
    let folded: Vec<Option<FoldedSite>> = folded.collect::<Result<_, _>>()?;
    let folded: Vec<FoldedSite> = folded.into_iter().flatten().collect();
    let extent = Arc::new(lay_out(&folded, base.catalog()));
    Ok(LoadedAdapter { digest: digest(parts, base.digest()), extent, chat: None })
}

fn digest(parts: &[(LoadedAdapter, f32)], base: Digest) -> Digest {
    let digest = DigestBuilder::new(DOMAIN).field(&base.0).number(parts.len() as u64);
    let add = |d: DigestBuilder, (adapter, weight): &(LoadedAdapter, f32)| {
        d.field(&adapter.digest.0).field(&weight.to_bits().to_le_bytes())
    };
    parts.iter().fold(digest, add).finish()
}

/// What is added up at one site.
struct SiteSum<'a> {
    site: &'a Site,
    /// All parts with a weight other than zero.
    parts: usize,
    /// The sum of their weights.
    sum: f64,
    /// Those with an effect here.
    effects: Vec<Effect<'a>>,
}

/// One part's effect at one site.
struct Effect<'a> {
    weight: f32,
    slot: SiteSlot,
    values: &'a [f32],
}

impl<'a> SiteSum<'a> {
    fn new(site: &'a Site, weighted: &[&'a (LoadedAdapter, f32)]) -> Self {
        let effects = weighted.iter().filter_map(|(adapter, weight)| {
            let slot = *adapter.extent.layout().slot(site.id)?;
            Some(Effect { weight: *weight, slot, values: adapter.extent.values() })
        });
        let sum = weighted.iter().map(|(_, weight)| f64::from(*weight)).sum();
        Self { site, parts: weighted.len(), sum, effects: effects.collect() }
    }

    fn fold(&self) -> Result<Option<FoldedSite>, ComposeError> {
        let Site { id, in_width, out_width, .. } = *self.site;
        Ok(FoldedSite::new(id, [in_width, out_width], self.product()?, self.gain()?, self.bias()?))
    }

    /// The parts' `A`, `[rank, in_width]`, and `w_i B_i'` transposed, `[rank, out_width]`, one after the other. A part
    /// whose weighted `B` is zero brings nothing.
    fn product(&self) -> Result<[Vec<f32>; 2], ComposeError> {
        let (mut a, mut b) = (vec![], vec![]);
        let mut rank = 0;
        for effect in &self.effects {
            let shape = effect.slot.shape;
            let stored = &effect.values[effect.slot.b..][..shape.rank * shape.out_width];
            let scaled: Vec<f32> = stored.iter().map(|&v| v * effect.weight).collect();
            if scaled.iter().all(|&v| v == 0.0) {
                continue;
            }
            rank += shape.rank;
            if rank > MAX_RANK {
                return Err(ComposeError::Rank { site: self.site.name.clone(), found: self.rank() });
            }
            a.extend_from_slice(&effect.values[effect.slot.a..][..shape.rank * shape.in_width]);
            b.extend(scaled);
        }
        Ok([a, self.finite("B", b)?])
    }

    /// `g = 1 + sum_i w_i (g_i - 1)`, `[out_width]`; a part without a gain has `g_i = 1`.
    fn gain(&self) -> Result<Option<Vec<f32>>, ComposeError> {
        let gains: Vec<Weighted> = self.effects.iter().filter_map(|e| e.vector(e.slot.gain)).collect();
        if gains.is_empty() {
            return Ok(None);
        }
        // Written so that one part of weight 1 keeps its gain to the bit.
        let rest = 1.0 - gains.iter().map(|(weight, _)| weight).sum::<f64>();
        Ok(Some(self.finite("gain", weighted_sum(rest, &gains, self.site.out_width))?))
    }

    /// `sum_i w_i b_i`, `[out_width]`: the whole bias only where no part of the base's is left.
    fn bias(&self) -> Result<Option<Vec<f32>>, ComposeError> {
        let biases: Vec<Weighted> = self.effects.iter().filter_map(|e| e.vector(e.slot.bias)).collect();
        if biases.is_empty() {
            return Ok(None);
        }
        if biases.len() < self.parts || (self.sum - 1.0).abs() > SUM_TOLERANCE {
            let (with, parts, sum) = (biases.len(), self.parts, self.sum);
            return Err(ComposeError::Bias { site: self.site.name.clone(), with, parts, sum });
        }
        Ok(Some(self.finite("bias", weighted_sum(0.0, &biases, self.site.out_width))?))
    }

    fn rank(&self) -> usize {
        self.effects.iter().map(|effect| effect.slot.shape.rank).sum()
    }

    fn finite(&self, what: &'static str, values: Vec<f32>) -> Result<Vec<f32>, ComposeError> {
        match first_not_finite(&values) {
            None => Ok(values),
            Some((index, value)) => {
                Err(ComposeError::NotFinite { site: self.site.name.clone(), what, index, value })
            }
        }
    }
}

/// A weight and a vector `[out_width]`.
type Weighted<'a> = (f64, &'a [f32]);

impl<'a> Effect<'a> {
    fn vector(&self, at: Option<usize>) -> Option<Weighted<'a>> {
        at.map(|at| (f64::from(self.weight), &self.values[at..][..self.slot.shape.out_width]))
    }
}

/// `start + sum_i w_i v_i`, rounded once, `[width]`.
fn weighted_sum(start: f64, vectors: &[Weighted], width: usize) -> Vec<f32> {
    let sum = |o: usize| vectors.iter().fold(start, |sum, (weight, v)| sum + weight * f64::from(v[o]));
    (0..width).map(|o| sum(o) as f32).collect()
}
