//! A step's rows for a decoder: new tokens of many sequences, one after the other, and where their past lies.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use polylora_kernels::{PagedRows, PagedSequence};

use crate::BatchError;

/// New tokens of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagedRow<'a> {
    /// The tokens: one when it decodes, more of a prompt.
    pub tokens: &'a [u32],
    /// Tokens before them, whose keys and values are in the cache.
    pub context: usize,
    /// The block of the positions `i * block_size ..` at `i`, up to the last new token.
    pub blocks: &'a [u32],
    /// Which of the tokens give logits.
    pub logits: WantedLogits,
}

/// Which tokens of a row give logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WantedLogits {
    /// None: the prompt goes on in a later step.
    Nothing,
    /// The last one's.
    #[default]
    Last,
    /// Every token's.
    All,
}

/// What a decoder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagedLimits {
    /// Positions of a sequence.
    pub positions: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Blocks of the cache.
    pub blocks: usize,
    /// Tokens a block.
    pub block_size: usize,
}

/// A step's rows on the device.
#[derive(Clone, Debug)]
pub struct PagedBatch {
    /// Token ids, `[T]`.
    pub ids: Tensor<1, Int>,
    /// The rows and where their keys and values lie.
    pub rows: PagedRows,
    /// The rows, of `T`, that give logits, in order.
    pub wanted: Vec<usize>,
}

impl PagedBatch {
    /// The rows on `device`.
    ///
    /// # Errors
    /// When a row does not fit the model or the cache.
    ///
    /// # Panics
    /// When two rows write to one block: their owner has mixed them up.
    pub fn new(rows: &[PagedRow<'_>], limits: PagedLimits, device: &Device) -> Result<Self, BatchError> {
        check(rows, limits)?;
        let (mut ids, mut wanted) = (vec![], vec![]);
        for row in rows {
            let start = ids.len();
            ids.extend(row.tokens.iter().map(|token| *token as i32));
            wanted.extend(match row.logits {
                WantedLogits::Nothing => ids.len()..ids.len(),
                WantedLogits::Last => ids.len() - 1..ids.len(),
                WantedLogits::All => start..ids.len(),
            });
        }
        let sequences = rows.iter().map(|row| PagedSequence {
            rows: row.tokens.len(),
            context: row.context,
            blocks: row.blocks.to_vec(),
        });
        let sequences: Vec<_> = sequences.collect();
        let count = ids.len();
        Ok(Self {
            ids: Tensor::from_data(TensorData::new(ids, [count]), (device, DType::I32)),
            rows: PagedRows::new(&sequences, limits.block_size, device),
            wanted,
        })
    }
}

fn check(rows: &[PagedRow<'_>], limits: PagedLimits) -> Result<(), BatchError> {
    if rows.is_empty() {
        return Err(BatchError::Empty);
    }
    for (row, PagedRow { tokens, context, blocks, .. }) in rows.iter().enumerate() {
        let end = context.saturating_add(tokens.len());
        if tokens.is_empty() || end > limits.positions {
            return Err(BatchError::Length { row, tokens: end, max: limits.positions });
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= limits.vocab_size) {
            return Err(BatchError::Token { row, token: *token, vocab_size: limits.vocab_size });
        }
        let (found, needed) = (blocks.len(), end.div_ceil(limits.block_size.max(1)));
        if found < needed {
            return Err(BatchError::Blocks { row, found, needed });
        }
        if let Some(block) = blocks.iter().find(|block| **block as usize >= limits.blocks) {
            return Err(BatchError::Block { row, block: *block, blocks: limits.blocks });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PagedLimits = PagedLimits { positions: 10, vocab_size: 50, blocks: 4, block_size: 4 };

    fn row<'a>(tokens: &'a [u32], context: usize, blocks: &'a [u32]) -> PagedRow<'a> {
        PagedRow { tokens, context, blocks, logits: WantedLogits::Last }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_row() {
        let good = row(&[1, 2], 3, &[0, 1]);
        for (bad, error) in [
            (row(&[], 0, &[2]), BatchError::Length { row: 1, tokens: 0, max: 10 }),
            (row(&[1], 10, &[2, 3, 2]), BatchError::Length { row: 1, tokens: 11, max: 10 }),
            (row(&[1], usize::MAX, &[2]), BatchError::Length { row: 1, tokens: usize::MAX, max: 10 }),
            (row(&[50], 0, &[2]), BatchError::Token { row: 1, token: 50, vocab_size: 50 }),
            (row(&[1], 4, &[2]), BatchError::Blocks { row: 1, found: 1, needed: 2 }),
            (row(&[1], 0, &[4]), BatchError::Block { row: 1, block: 4, blocks: 4 }),
        ] {
            let found = PagedBatch::new(&[good.clone(), bad], LIMITS, &Device::flex());
            assert_eq!(found.expect_err("refused"), error);
        }
        assert_eq!(PagedBatch::new(&[], LIMITS, &Device::flex()).expect_err("empty"), BatchError::Empty);
    }

    #[test]
    fn rows_give_logits_where_they_are_wanted() {
        let all = PagedRow { logits: WantedLogits::All, ..row(&[1, 2], 0, &[0]) };
        let nothing = PagedRow { logits: WantedLogits::Nothing, ..row(&[3, 4], 0, &[1]) };
        let last = row(&[5, 6, 7], 2, &[2, 3]);
        let batch = PagedBatch::new(&[all, nothing, last], LIMITS, &Device::flex()).expect("fits");
        assert_eq!(batch.wanted, [0, 1, 6]);
        let ids: Vec<i32> = batch.ids.into_data().iter().collect();
        assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7]);
    }
}
