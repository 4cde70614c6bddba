//! Scores of some rows over one chunk of keys, made into weights.

use super::panels::PanelLayout;
use crate::element::Element;
use crate::math::exp2_of_negative;
use crate::packed_matrix::PANEL;
use crate::target::{LANES, Target};
use crate::tile::MAX_ROWS;

/// Where the scores of some rows lie: block by block, panel by panel, row by row, [`PANEL`] places each.
#[derive(Clone, Copy)]
pub(super) struct ScoreGrid {
    pub layout: PanelLayout,
    pub block_size: usize,
    /// The first block, counted from the sequence's start.
    pub first_block: usize,
    /// Rows.
    pub rows: usize,
    /// One more than the last position that any of the rows sees in these blocks.
    pub end: usize,
}

impl ScoreGrid {
    /// Blocks that have a position before the end.
    #[inline(always)]
    pub fn blocks(&self) -> usize {
        self.end.div_ceil(self.block_size) - self.first_block
    }

    /// Keys of a block, counted from the first one, that lie before the end.
    #[inline(always)]
    pub fn keys(&self, block: usize) -> usize {
        self.block_size.min(self.end - (self.first_block + block) * self.block_size)
    }

    /// Where the scores of a panel begin.
    #[inline(always)]
    pub fn panel(&self, block: usize, panel: usize) -> usize {
        (block * self.layout.key_panels() + panel) * self.rows * PANEL
    }

    /// Scores in all.
    pub fn len(&self) -> usize {
        self.panel(self.blocks(), 0)
    }

    /// Where a row's scores of sixteen keys of a block begin.
    #[inline(always)]
    fn sixteen(&self, block: usize, sixteen: usize, row: usize) -> usize {
        let (panel, half) =
            if self.layout.lanes == PANEL { (sixteen / 2, sixteen % 2) } else { (sixteen, 0) };
        self.panel(block, panel) + row * PANEL + half * LANES
    }
}

/// The highest score of each row, and the sum of its weights relative to it.
#[derive(Clone, Copy)]
pub(super) struct RowSums {
    pub highest: [f32; MAX_ROWS],
    pub total: [f32; MAX_ROWS],
}

/// Turns scores into weights `2^(factor (s - highest))`, exactly 0 for keys that a row does not see. `seen`: by row, the
/// first position that it sees and one more than the last. `weights`: the rows', `stride` values apart, in the order of the
/// blocks' padded keys.
#[inline(always)]
pub(super) fn softmax<I: Target, W: Element>(
    scores: &mut [f32],
    grid: &ScoreGrid,
    factor: f32,
    seen: &[(usize, usize)],
    weights: (*mut W, usize),
) -> RowSums {
    let mut sums = RowSums { highest: [0.0; MAX_ROWS], total: [0.0; MAX_ROWS] };
    let mut row = 0;
    while row < grid.rows {
        // Several rows at once: one row's steps wait for each other.
        if row + 4 <= grid.rows {
            softmax_rows::<I, W, 4>(scores, grid, (row, factor), seen, &mut sums, weights);
            row += 4;
        } else {
            softmax_rows::<I, W, 1>(scores, grid, (row, factor), seen, &mut sums, weights);
            row += 1;
        }
    }
    sums
}

/// [`softmax`] for the rows `first .. first + R`; a row's order of sums does not depend on `R`.
#[inline(always)]
fn softmax_rows<I: Target, W: Element, const R: usize>(
    scores: &mut [f32],
    grid: &ScoreGrid,
    (first, factor): (usize, f32),
    seen: &[(usize, usize)],
    sums: &mut RowSums,
    (to, stride): (*mut W, usize),
) {
    assert!(scores.len() >= grid.len() && first + R <= grid.rows && seen.len() >= grid.rows);
    let mut highest = [I::splat(f32::NEG_INFINITY); R];
    for block in 0..grid.blocks() {
        let position = (grid.first_block + block) * grid.block_size;
        for sixteen in 0..grid.keys(block).div_ceil(LANES) {
            let (from, end) = (position + sixteen * LANES, position + grid.block_size);
            for (r, highest) in highest.iter_mut().enumerate() {
                let (low, high) = seen[first + r];
                let at = grid.sixteen(block, sixteen, first + r);
                if from < low || from + LANES > high.min(end) {
                    for (lane, score) in scores[at..at + LANES].iter_mut().enumerate() {
                        if !(low..high.min(end)).contains(&(from + lane)) {
                            *score = f32::NEG_INFINITY;
                        }
                    }
                }
                // SAFETY: below the scores' length, which was compared.
                *highest = I::max(*highest, unsafe { I::load(scores.as_ptr().add(at)) });
            }
        }
    }
    let (mut from, mut totals) = ([I::splat(0.0); R], [I::splat(0.0); R]);
    for r in 0..R {
        let most = I::highest(highest[r]);
        sums.highest[first + r] = most;
        // A row that sees nothing here has weights of 0 relative to anything.
        from[r] = I::splat(if most == f32::NEG_INFINITY { 0.0 } else { most });
    }
    let factor = I::splat(factor);
    for block in 0..grid.blocks() {
        for sixteen in 0..grid.keys(block).div_ceil(LANES) {
            for r in 0..R {
                // SAFETY: as above; a row of weights has place for the blocks' padded keys.
                unsafe {
                    let score = I::load(scores.as_ptr().add(grid.sixteen(block, sixteen, first + r)));
                    let exponent = I::mul(I::sub(score, from[r]), factor);
                    let weight = exp2_of_negative::<I>(exponent, W::COARSE);
                    let weight = I::zero_below(weight, exponent, -126.0);
                    totals[r] = I::add(totals[r], weight);
                    let at = (first + r) * stride + block * grid.layout.block_keys + sixteen * LANES;
                    W::store::<I>(weight, to.add(at));
                }
            }
        }
    }
    for (r, total) in totals.into_iter().enumerate() {
        sums.total[first + r] = I::sum(total);
    }
}
