//! Texts of a batch, one after the other, without padding.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use polylora_kernels::Sequences;

/// A packed batch on the device.
#[derive(Clone, Debug)]
pub struct PackedBatch {
    /// Token ids, `[T]`.
    pub ids: Tensor<1, Int>,
    /// Position of each token in its text, `[T]`.
    pub positions: Tensor<1, Int>,
    /// Where the texts begin and end.
    pub sequences: Sequences,
}

/// Why rows are no batch for a model. The engine checks requests first; this is the model's own guard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There are no rows.
    #[error("the batch is empty")]
    Empty,
    /// A row has no tokens, or more than the model takes.
    #[error("row {row} has {tokens} tokens, expected 1 to {max}")]
    Length {
        /// The row.
        row: usize,
        /// Its tokens.
        tokens: usize,
        /// The model's limit.
        max: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("row {row} has token id {token}, expected below {vocab_size}")]
    Token {
        /// The row.
        row: usize,
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A row's blocks do not reach to its last token.
    #[error("row {row} has {found} blocks, it needs {needed}")]
    Blocks {
        /// The row.
        row: usize,
        /// Its blocks.
        found: usize,
        /// Those that its tokens take.
        needed: usize,
    },
    /// A block is not in the cache.
    #[error("row {row} has block {block}, expected below {blocks}")]
    Block {
        /// The row.
        row: usize,
        /// The block.
        block: u32,
        /// Blocks of the cache.
        blocks: usize,
    },
}

impl PackedBatch {
    /// Packs `rows` for a model that takes `max` tokens a row out of `vocab_size`.
    ///
    /// # Errors
    /// When a row does not fit the model.
    pub fn new(rows: &[&[u32]], max: usize, vocab_size: usize, device: &Device) -> Result<Self, BatchError> {
        Self::check(rows, max, vocab_size)?;
        Ok(Self::pack(rows, device))
    }

    /// Packs rows that have been checked.
    pub(crate) fn pack(rows: &[&[u32]], device: &Device) -> Self {
        let (mut ids, mut positions, mut lengths) = (vec![], vec![], vec![]);
        for tokens in rows {
            ids.extend(tokens.iter().map(|t| *t as i32));
            positions.extend(0..tokens.len() as i32);
            lengths.push(tokens.len());
        }
        let ints = |values: Vec<i32>| {
            let shape = [values.len()];
            Tensor::from_data(TensorData::new(values, shape), (device, DType::I32))
        };
        Self { ids: ints(ids), positions: ints(positions), sequences: Sequences::new(&lengths, device) }
    }

    /// Refuses rows that do not fit a model.
    ///
    /// # Errors
    /// Which row, and why.
    pub fn check(rows: &[&[u32]], max: usize, vocab_size: usize) -> Result<(), BatchError> {
        if rows.is_empty() {
            return Err(BatchError::Empty);
        }
        for (row, tokens) in rows.iter().enumerate() {
            if tokens.is_empty() || tokens.len() > max {
                return Err(BatchError::Length { row, tokens: tokens.len(), max });
            }
            if let Some(token) = tokens.iter().find(|t| **t as usize >= vocab_size) {
                return Err(BatchError::Token { row, token: *token, vocab_size });
            }
        }
        Ok(())
    }
}
