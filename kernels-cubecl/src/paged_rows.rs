//! Where the rows of a batch belong, and where the keys and values of their sequences lie.

use std::sync::Arc;

use burn::backend::tensor::IntTensor;
use burn::backend::{Backend, Dispatch, ExtensionType};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use polylora_kernels_cpu::{PagedBatch, PagedSequence};

use crate::paged_index::PagedIndex;

/// A batch's rows as the ops see them: on the device for kernels, on the host for loops.
#[derive(Clone, Debug, ExtensionType)]
pub struct PagedRowsIndex<B: Backend> {
    /// The numbers of `paged_index.rs`, i32.
    pub values: IntTensor<B>,
    /// Where which of them lie.
    pub index: PagedIndex,
    /// The rows on the host.
    pub batch: Arc<PagedBatch>,
}

/// The rows of a batch, sequence after sequence, and where their keys and values lie (block tables as in PagedAttention, arXiv
/// 2309.06180). Made once a batch, for all layers.
#[derive(Clone, Debug)]
pub struct PagedRows {
    values: Tensor<1, Int>,
    index: PagedIndex,
    batch: Arc<PagedBatch>,
}

impl PagedRows {
    /// Rows of `sequences` whose blocks have `block_size` tokens, on `device`. Decoding sequences and pieces of prompts mix.
    ///
    /// # Panics
    /// When a sequence has no row or too few blocks, or when two of them write to one block.
    pub fn new(sequences: &[PagedSequence], block_size: usize, device: &Device) -> Self {
        let batch = PagedBatch::new(sequences, block_size);
        let (index, values) = PagedIndex::new(&batch);
        let shape = [values.len()];
        let values = Tensor::from_data(TensorData::new(values, shape), (device, DType::I32));
        Self { values, index, batch: Arc::new(batch) }
    }

    /// Number of sequences.
    pub fn count(&self) -> usize {
        self.batch.sequences().len()
    }

    /// Number of rows in all.
    pub fn rows(&self) -> usize {
        self.batch.rows()
    }

    pub(crate) fn batch(&self) -> &PagedBatch {
        &self.batch
    }

    pub(crate) fn to_dispatch(&self) -> PagedRowsIndex<Dispatch> {
        PagedRowsIndex {
            values: self.values.clone().into_dispatch(),
            index: self.index,
            batch: self.batch.clone(),
        }
    }
}
