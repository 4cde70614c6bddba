//! Time of whole passes: from token ids to embeddings, through the library as the engine's runner calls it.

use std::time::Duration;

use polylora_kernels::LoraBatch;
use polylora_models::EmbeddingModel;
use serde::Serialize;

use super::timing::Times;
use crate::assemble::AssembleError;

/// A batch of texts of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Texts.
    pub batch: usize,
    /// Tokens of each.
    pub tokens: usize,
}

/// What a batch takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Texts in the batch.
    pub batch: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Milliseconds of the median pass.
    pub median_ms: f64,
    /// Milliseconds of the fastest pass: much less than the median where something else ran on the machine.
    pub fastest_ms: f64,
    /// Texts a second at the median pass.
    pub texts_per_s: f64,
    /// Tokens a second at the median pass.
    pub tokens_per_s: f64,
    /// The time that the arithmetic alone would take at the product's peak with all threads, as a share of the median pass.
    pub share_of_floor: f64,
}

/// Measures a batch that would take `floor` seconds at the peak.
///
/// # Errors
/// When the model refuses the batch.
pub fn measure(
    model: &EmbeddingModel,
    shape: Shape,
    floor: f64,
    budget: Duration,
) -> Result<Speed, AssembleError> {
    let rows = rows(shape, model.vocab_size() as u64);
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let lora = LoraBatch::base();
    let mut refusal = None;
    let times = Times::of(budget, || {
        if let Err(error) = model.embed(&rows, &lora) {
            refusal = Some(error);
        }
    });
    if let Some(error) = refusal {
        return Err(AssembleError::at("embedding a batch")(error));
    }
    let Shape { batch, tokens } = shape;
    let seconds = times.median;
    Ok(Speed {
        batch,
        tokens,
        median_ms: seconds * 1e3,
        fastest_ms: times.fastest * 1e3,
        texts_per_s: batch as f64 / seconds,
        tokens_per_s: (batch * tokens) as f64 / seconds,
        share_of_floor: floor / seconds,
    })
}

/// Rows of ids over the whole vocabulary: which tokens they are changes no arithmetic, only where the table is read.
fn rows(shape: Shape, vocabulary: u64) -> Vec<Vec<u32>> {
    let mut state = 1u64;
    let mut id = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocabulary) as u32
    };
    (0..shape.batch).map(|_| (0..shape.tokens).map(|_| id()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_shape_and_ids_of_the_vocabulary() {
        let rows = rows(Shape { batch: 7, tokens: 5 }, 11);
        assert_eq!(rows.len(), 7);
        assert!(rows.iter().all(|row| row.len() == 5 && row.iter().all(|id| *id < 11)));
        assert_ne!(rows[0], rows[1]);
    }
}
