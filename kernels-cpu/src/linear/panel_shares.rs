//! Panels shared out among threads: large shares first, so that few are taken, and small ones last, so that nobody waits long.

use std::ops::Range;

/// Shares of panels, in rounds: in each, every thread gets an even part of half of what is left (factoring: Hummel, Schonberg
/// and Flynn, Communications of the ACM 35 (8), 1992).
#[derive(Clone, Copy)]
pub(super) struct PanelShares {
    panels: usize,
    threads: usize,
}

impl PanelShares {
    /// Of `panels` panels for `threads` threads, one at least.
    pub fn new(panels: usize, threads: usize) -> Self {
        Self { panels, threads }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        let shares_of = |round: Round| round.panels.len().div_ceil(round.share);
        self.rounds().map(shares_of).sum()
    }

    /// The panels of share `index`, which is one of them.
    pub fn panels_of(&self, index: usize) -> Range<usize> {
        let mut before = 0;
        for Round { panels, share } in self.rounds() {
            let start = panels.start + (index - before) * share;
            if start < panels.end {
                return start..panels.end.min(start + share);
            }
            before += panels.len().div_ceil(share);
        }
        unreachable!("there are {before} shares, and none is number {index}")
    }

    fn rounds(&self) -> impl Iterator<Item = Round> {
        let Self { panels, threads } = *self;
        let mut start = 0;
        std::iter::from_fn(move || {
            let left = panels - start;
            let share = left.div_ceil(2 * threads);
            let end = start + left.min(share * threads);
            let round = Round { panels: start..end, share };
            start = end;
            (left > 0).then_some(round)
        })
    }
}

/// Some panels, and how many of them a share has.
struct Round {
    panels: Range<usize>,
    share: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_are_all_panels_in_order_and_none_is_larger_than_one_before(
            panels in 0usize..5000, threads in 1usize..70,
        ) {
            let shares = PanelShares::new(panels, threads);
            let (mut next, mut largest) = (0, panels);
            for index in 0..shares.count() {
                let share = shares.panels_of(index);
                prop_assert_eq!(share.start, next);
                prop_assert!(!share.is_empty() && (share.len() <= largest || share.end == panels));
                (next, largest) = (share.end, share.len());
            }
            prop_assert_eq!(next, panels);
            prop_assert!(largest <= 1);
        }
    }

    #[test]
    fn two_threads_halve_what_is_left() {
        let sizes = |panels| {
            let shares = PanelShares::new(panels, 2);
            (0..shares.count()).map(|index| shares.panels_of(index).len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(12), [3, 3, 2, 2, 1, 1]);
        assert_eq!(sizes(36), [9, 9, 5, 5, 2, 2, 1, 1, 1, 1]);
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(0), [0; 0]);
    }
}
