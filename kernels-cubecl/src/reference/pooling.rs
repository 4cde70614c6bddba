//! Pooling in plain tensor operations, one sequence after the other.

use burn::backend::Backend;
use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;

use super::{slice, widen};
use crate::Pooling;
use crate::ops::pooling::PoolArgs;

/// Gives f32 whatever the dtype of the rows.
pub(crate) fn pool<B: Backend>(args: PoolArgs<B>) -> FloatTensor<B> {
    let width = args.hidden.shape()[1];
    let pooled = args.sequences.host.windows(2).map(|bounds| {
        let (start, end) = (bounds[0] as usize, bounds[1] as usize);
        let rows =
            |start: usize, end: usize| widen::<B>(slice::<B>(args.hidden.clone(), &[start..end, 0..width]));
        match args.pooling {
            Pooling::Mean => B::float_mean_dim(rows(start, end), 0),
            Pooling::Max => B::float_max_dim(rows(start, end), 0),
            Pooling::Cls => rows(start, start + 1),
            Pooling::LastToken => rows(end - 1, end),
        }
    });
    let pooled = B::float_cat(pooled.collect(), 0);
    if !args.normalize {
        return pooled;
    }
    let squares = B::float_sum_dim(B::float_mul(pooled.clone(), pooled.clone()), 1);
    let norm = B::float_clamp_min(B::float_sqrt(squares), 1e-12f32.into());
    B::float_div(pooled, norm)
}
