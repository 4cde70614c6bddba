//! What to compute before the first request, so that no request waits for a kernel to be compiled or tuned: numbers
//! only, no device.

/// Most tokens of a batch that is warmed up. Larger ones, which few cards have the memory for, are tuned when they first
/// come.
pub const MOST_WARM_TOKENS: usize = 65_536;

/// Tokens of the batches that compile every kernel of a forward pass: the product of one row, of few, of many.
const COMPILING_TOKENS: [usize; 3] = [1, 8, 64];
/// Tokens of one adapter that get tiles of one row (BGMV), of 16 and of 64 rows (SGMV).
const ADAPTER_TOKENS: [usize; 3] = [2, 8, 64];
/// Ranks that the shrink is compiled for.
const RANKS: [usize; 3] = [8, 16, 32];

/// How much there is to warm up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmUpBounds {
    /// Tokens in one batch.
    pub max_batch_tokens: usize,
    /// Whether adapters are served.
    pub adapters: bool,
}

/// What a device has to find out by computing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmUpDepth {
    /// Every kernel once.
    Kernels,
    /// And every bucket of batch sizes, as the fastest kernel depends on the size.
    KernelsAndSizes,
}

/// One batch to compute for the sake of its kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUpShape {
    /// Tokens of each row.
    pub rows: Vec<usize>,
    /// Rank of the adapter that all rows go through; `None` is the base model.
    pub rank: Option<usize>,
}

impl WarmUpShape {
    /// Tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.rows.iter().sum()
    }
}

/// The batches to compute on a device whose model takes `max_row_tokens` a row: the base by ascending size, then
/// adapters.
pub fn warm_up_plan(bounds: WarmUpBounds, max_row_tokens: usize, depth: WarmUpDepth) -> Vec<WarmUpShape> {
    let max_row_tokens = max_row_tokens.max(1);
    // A row that is longer than a batch may be goes alone.
    let longest = bounds.max_batch_tokens.max(max_row_tokens).min(MOST_WARM_TOKENS);
    let up_to_longest = |tokens: &[usize]| {
        let mut tokens: Vec<usize> = tokens.iter().map(|&tokens| tokens.min(longest)).collect();
        tokens.dedup();
        tokens
    };
    let shape = |tokens, rank| WarmUpShape { rows: rows_of(tokens, max_row_tokens), rank };
    let base = match depth {
        WarmUpDepth::Kernels => up_to_longest(&COMPILING_TOKENS),
        WarmUpDepth::KernelsAndSizes => {
            let powers = std::iter::successors(Some(1usize), |tokens| tokens.checked_mul(2));
            powers.take_while(|&tokens| tokens < longest).chain([longest]).collect()
        }
    };
    let mut plan: Vec<WarmUpShape> = base.into_iter().map(|tokens| shape(tokens, None)).collect();
    if bounds.adapters {
        for tokens in up_to_longest(&ADAPTER_TOKENS) {
            plan.extend(RANKS.map(|rank| shape(tokens, Some(rank))));
        }
    }
    plan
}

/// `tokens` as rows of different lengths, each at most `longest`.
fn rows_of(mut tokens: usize, longest: usize) -> Vec<usize> {
    let mut rows = vec![];
    let mut next = longest;
    while tokens > 0 {
        let row = next.min(tokens);
        rows.push(row);
        tokens -= row;
        // Halves down to one token, then long ones again.
        next = if next > 1 { next.div_ceil(2) } else { longest };
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use polylora_kernels::kernel_cache::tuning_bucket;
    use polylora_kernels::{TilePlan, TileRows, segments_of};
    use proptest::prelude::*;

    fn bounds() -> impl Strategy<Value = (WarmUpBounds, usize)> {
        let tokens = prop_oneof![1usize..200, 1usize..20_000, Just(usize::MAX)];
        (tokens, prop_oneof![1usize..70, 1usize..9000], any::<bool>()).prop_map(
            |(max_batch_tokens, max_row_tokens, adapters)| {
                (WarmUpBounds { max_batch_tokens, adapters }, max_row_tokens)
            },
        )
    }

    fn longest((bounds, max_row_tokens): (WarmUpBounds, usize)) -> usize {
        bounds.max_batch_tokens.max(max_row_tokens).min(MOST_WARM_TOKENS)
    }

    fn height(rows: impl IntoIterator<Item = (usize, Option<usize>)>) -> TileRows {
        TilePlan::new(&segments_of(rows)).tile_rows
    }

    proptest! {
        #[test]
        fn every_batch_shape_falls_into_a_warmed_bucket(bounds in bounds(), part in 0.0..=1.0f64) {
            let tokens = ((longest(bounds) as f64 * part) as usize).max(1);
            let plan = warm_up_plan(bounds.0, bounds.1, WarmUpDepth::KernelsAndSizes);
            let warmed = |shape: &WarmUpShape| {
                shape.rank.is_none() && tuning_bucket(shape.tokens()) == tuning_bucket(tokens)
            };
            prop_assert!(plan.iter().any(warmed), "{} tokens", tokens);
        }

        #[test]
        fn every_height_of_tiles_is_warmed_for_every_rank(
            bounds in bounds(),
            lengths in proptest::collection::vec((1usize..400, proptest::option::of(0usize..4)), 1..12),
        ) {
            let bounds = (WarmUpBounds { adapters: true, ..bounds.0 }, bounds.1);
            let mut left = longest(bounds);
            let batch = lengths.into_iter().map_while(|(tokens, adapter)| {
                let row = tokens.min(bounds.1);
                left = left.checked_sub(row)?;
                Some((row, adapter))
            });
            let batch: Vec<_> = batch.collect();
            prop_assume!(batch.iter().any(|(_, adapter)| adapter.is_some()));
            for depth in [WarmUpDepth::Kernels, WarmUpDepth::KernelsAndSizes] {
                let plan = warm_up_plan(bounds.0, bounds.1, depth);
                for rank in RANKS {
                    let warmed = |shape: &WarmUpShape| {
                        shape.rank == Some(rank)
                            && height(shape.rows.iter().map(|&row| (row, Some(0)))) == height(batch.clone())
                    };
                    prop_assert!(plan.iter().any(warmed), "{:?} at rank {}", batch, rank);
                }
            }
        }

        #[test]
        fn no_shape_is_more_than_the_engine_would_send(bounds in bounds()) {
            for depth in [WarmUpDepth::Kernels, WarmUpDepth::KernelsAndSizes] {
                let plan = warm_up_plan(bounds.0, bounds.1, depth);
                prop_assert!(plan.len() <= 17 + 9);
                for (index, shape) in plan.iter().enumerate() {
                    prop_assert!((1..=longest(bounds)).contains(&shape.tokens()));
                    prop_assert!(shape.rows.iter().all(|row| (1..=bounds.1).contains(row)));
                    prop_assert!(bounds.0.adapters || shape.rank.is_none());
                    prop_assert!(!plan[..index].contains(shape), "twice: {:?}", shape);
                }
            }
        }
    }

    #[test]
    fn rows_of_a_shape_differ_in_length() {
        assert_eq!(rows_of(20, 8), [8, 4, 2, 1, 5]);
        assert_eq!(rows_of(3, 1), [1, 1, 1]);
    }
}
