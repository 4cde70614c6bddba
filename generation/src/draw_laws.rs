//! Draws against a twin that weighs, sorts and adds up every token.

use std::num::NonZeroUsize;

use proptest::prelude::*;

use crate::boltzmann::Boltzmann;
use crate::logit_blocks::LogitBlocks;
use crate::logit_filters::{LogitFilters, Shortlist};

/// The tokens that may be drawn and their weights, by id.
fn plain(logits: &[f32], weights: &Boltzmann, filters: &LogitFilters) -> Vec<(u32, u64)> {
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    let mass = |token: u32| weights.mass(logits[token as usize]);
    // A stable sort leaves equal logits by id.
    tokens.sort_by(|&a, &b| logits[b as usize].partial_cmp(&logits[a as usize]).unwrap());
    if let Some(count) = filters.top_k {
        tokens.truncate(count.get());
    }
    if let Some(share) = filters.top_p {
        let total: u64 = tokens.iter().map(|&token| mass(token)).sum();
        let goal = (f64::from(share) * total as f64).ceil() as u64;
        let mut reached = 0;
        tokens.retain(|&token| {
            let is_kept = reached < goal.max(1);
            reached += mass(token);
            is_kept
        });
    }
    tokens.sort_unstable();
    tokens.into_iter().map(|token| (token, mass(token))).filter(|&(_, mass)| mass > 0).collect()
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        4 => -30f32..10.0,
        2 => (-8i8..8).prop_map(f32::from),
        1 => Just(-0.0),
        1 => Just(f32::NEG_INFINITY),
    ];
    prop_oneof![prop::collection::vec(logit.clone(), 1..40), prop::collection::vec(logit, 1..2000)]
        .prop_filter("a token to draw", |logits| logits.iter().any(|logit| logit.is_finite()))
}

fn filters() -> impl Strategy<Value = LogitFilters> {
    let top_k = prop::option::of((1usize..80).prop_map(|count| NonZeroUsize::new(count).unwrap()));
    let top_p = prop::option::of(prop_oneof![0.001f32..1.0, 0.99f32..1.0]);
    (top_k, top_p).prop_map(|(top_k, top_p)| LogitFilters { top_k, top_p })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_may_be_drawn_and_its_weights_are_those_of_a_plain_sort(
        logits in logits(),
        filters in filters(),
        temperature in prop_oneof![0.01f32..4.0, Just(1e-5f32), Just(1e30f32)],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..1.0, Just(1.0f32)],
    ) {
        let mut blocks = LogitBlocks::default();
        let peak = blocks.survey(&logits).unwrap();
        let weights = Boltzmann::new(peak, temperature).at_least(min_p);
        let expected = plain(&logits, &weights, &filters);
        let mut shortlist = Shortlist::default();
        let total = shortlist.fill(&logits, &mut blocks, &weights, &filters);
        prop_assert_eq!(total, expected.iter().map(|(_, mass)| mass).sum::<u64>());
        let unfiltered = filters.are_off().then(|| blocks.weigh(&logits, &weights));
        prop_assert!(unfiltered.is_none_or(|unfiltered| unfiltered == total));
        // The first and the last number that falls to a token, for some fifty of them.
        let mut start = 0;
        let stride = expected.len() / 50 + 1;
        for (index, (token, mass)) in expected.into_iter().enumerate() {
            for target in [start, start + mass - 1].into_iter().filter(|_| index % stride == 0) {
                prop_assert_eq!(shortlist.token_at(&weights, target), token);
                if unfiltered.is_some() {
                    prop_assert_eq!(blocks.token_at(&logits, &weights, target), token);
                }
            }
            start += mass;
        }
    }

    #[test]
    fn the_best_token_is_the_first_of_the_highest(logits in logits()) {
        let mut blocks = LogitBlocks::default();
        let peak = blocks.survey(&logits).unwrap();
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        prop_assert_eq!(peak, highest);
        let first = logits.iter().position(|&logit| logit == highest).unwrap();
        prop_assert_eq!(blocks.best(&logits, peak), first as u32);
    }

    #[test]
    fn a_bound_is_reached_by_as_many_as_asked(logits in logits(), count in 1usize..80) {
        let mut blocks = LogitBlocks::default();
        blocks.survey(&logits).unwrap();
        let bound = blocks.reached_by(count);
        let reached = logits.iter().filter(|&&logit| logit >= bound).count();
        prop_assert!(reached >= count.min(logits.len()));
    }
}
