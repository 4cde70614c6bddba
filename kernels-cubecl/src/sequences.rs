//! Where the sequences of a packed batch begin and end.

use std::sync::Arc;

use burn::backend::tensor::IntTensor;
use burn::backend::{Backend, Dispatch, ExtensionType};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::query_tiles::{QUERY_FIELDS, query_tiles};

/// Sequence bounds as the ops see them: on the device for kernels, on the host for loops.
#[derive(Clone, Debug, ExtensionType)]
pub struct SequenceBounds<B: Backend> {
    /// `cu_seqlens` `[B + 1]`, then the query tiles of attention `[tiles * 3]` (see `query_tiles.rs`), i32.
    pub index: IntTensor<B>,
    /// Number of query tiles.
    pub tiles: usize,
    /// `cu_seqlens` on the host, `[B + 1]`.
    pub host: Arc<[u32]>,
}

/// Bounds of the sequences in a packed batch: sequence `i` has rows `cu_seqlens[i] .. cu_seqlens[i + 1]`.
#[derive(Clone, Debug)]
pub struct Sequences {
    index: Tensor<1, Int>,
    tiles: usize,
    host: Arc<[u32]>,
}

impl Sequences {
    /// Sequences of `lengths` rows, one after the other, on `device`.
    ///
    /// # Panics
    /// When a sequence is empty: it has nothing to attend to and no embedding.
    pub fn new(lengths: &[usize], device: &Device) -> Self {
        assert!(lengths.iter().all(|l| *l > 0), "a packed batch has no empty sequence");
        let mut host = vec![0u32];
        for length in lengths {
            host.push(host[host.len() - 1] + *length as u32);
        }
        let tiles = query_tiles(&host);
        let count = tiles.len() / QUERY_FIELDS;
        let data: Vec<i32> = host.iter().map(|at| *at as i32).chain(tiles).collect();
        let shape = [data.len()];
        Self {
            index: Tensor::from_data(TensorData::new(data, shape), (device, DType::I32)),
            tiles: count,
            host: host.into(),
        }
    }

    /// Number of sequences.
    pub fn count(&self) -> usize {
        self.host.len() - 1
    }

    /// Number of rows in all.
    pub fn rows(&self) -> usize {
        self.host[self.host.len() - 1] as usize
    }

    /// Rows of each sequence.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.host.windows(2).map(|bounds| (bounds[1] - bounds[0]) as usize)
    }

    pub(crate) fn to_dispatch(&self) -> SequenceBounds<Dispatch> {
        SequenceBounds {
            index: self.index.clone().into_dispatch(),
            tiles: self.tiles,
            host: self.host.clone(),
        }
    }
}
