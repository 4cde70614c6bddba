//! What a decoder remembers of its sequences: keys and values of every layer, in blocks.

use burn::tensor::{DType, Device};
use polylora_kernels::{KvLayer, KvMemoryError, KvShape, copy_blocks};

use crate::DecoderConfig;

/// Keys and values of every layer of one decoder. A block has the same number in all layers.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<KvLayer>,
    blocks: usize,
    block_size: usize,
}

impl KvCache {
    /// Room for `blocks` blocks of `block_size` tokens each, on `device` in `dtype`.
    ///
    /// # Errors
    /// When the host or the device has not so much memory.
    pub fn new(
        config: &DecoderConfig,
        (blocks, block_size): (usize, usize),
        (device, dtype): (&Device, DType),
    ) -> Result<Self, KvMemoryError> {
        let shape = KvShape { blocks, block_size, heads: config.heads };
        let layers = (0..config.num_hidden_layers).map(|_| KvLayer::new(shape, device, dtype));
        Ok(Self { layers: layers.collect::<Result<_, _>>()?, blocks, block_size })
    }

    /// Bytes that one block of `block_size` tokens takes in all layers.
    pub fn bytes_per_block(
        config: &DecoderConfig,
        block_size: usize,
        (device, dtype): (&Device, DType),
    ) -> usize {
        let layer = KvLayer::block_bytes(block_size, config.heads, device, dtype);
        layer.saturating_mul(config.num_hidden_layers)
    }

    /// Most blocks of `block_size` tokens that the device's buffers hold, whatever its memory.
    pub fn most_blocks(
        config: &DecoderConfig,
        block_size: usize,
        (device, dtype): (&Device, DType),
    ) -> usize {
        KvLayer::most_blocks(block_size, config.heads, device, dtype)
    }

    /// Copies whole blocks, `(from, to)` each, in all layers.
    ///
    /// # Panics
    /// When a block is not in the cache.
    pub fn copy_blocks(&mut self, copies: &[(u32, u32)]) {
        self.layers.iter_mut().for_each(|layer| copy_blocks(layer, copies));
    }

    /// Blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Tokens a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    pub(crate) fn layers_mut(&mut self) -> &mut [KvLayer] {
        &mut self.layers
    }
}
