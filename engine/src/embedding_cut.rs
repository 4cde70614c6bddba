//! Fewer dimensions: the head of an embedding, at length 1 again (Matryoshka embeddings, arXiv 2205.13147).

/// Cuts `embedding` to `dimensions` values and scales them to L2 norm 1; the norm is summed in f64.
///
/// An embedding that has no more values than that stays as the model gave it, as does a head of zeros only.
pub(crate) fn cut_and_normalise(embedding: &mut Vec<f32>, dimensions: usize) {
    if dimensions >= embedding.len() {
        return;
    }
    embedding.truncate(dimensions);
    embedding.shrink_to_fit();
    let squares: f64 = embedding.iter().map(|&value| f64::from(value).powi(2)).sum();
    if squares > 0.0 {
        let norm = squares.sqrt();
        embedding.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_cut_keeps_the_direction_of_the_head_and_has_norm_one(
            values in proptest::collection::vec(-1e3f32..1e3, 2..64), share in 0.0f64..1.0,
        ) {
            let dimensions = 1 + ((values.len() - 1) as f64 * share) as usize;
            prop_assume!(dimensions < values.len());
            prop_assume!(values[..dimensions].iter().any(|value| value.abs() > 1e-3));
            let mut cut = values.clone();
            cut_and_normalise(&mut cut, dimensions);
            prop_assert_eq!(cut.len(), dimensions);
            let norm = cut.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            prop_assert!((norm - 1.0).abs() < 1e-6);
            let head = values[..dimensions].iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            for (cut, value) in cut.iter().zip(&values) {
                prop_assert!((f64::from(*cut) - f64::from(*value) / head).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn the_full_width_is_left_as_the_model_gave_it() {
        let mut whole = vec![3.0, 4.0];
        cut_and_normalise(&mut whole, 2);
        assert_eq!(whole, [3.0, 4.0]);
    }

    #[test]
    fn a_head_of_zeros_does_not_become_nan() {
        let mut zeros = vec![0.0, 0.0, 1.0];
        cut_and_normalise(&mut zeros, 2);
        assert_eq!(zeros, [0.0, 0.0]);
    }
}
