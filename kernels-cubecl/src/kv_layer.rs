//! The keys and values that one layer remembers, in blocks of some tokens.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType};
use burn::tensor::{DType, Device, Tensor, bf16};
use polylora_kernels_cpu::{KvHeads, KvPanels, KvShape, NoMemory};

use crate::device::is_cpu;
use crate::memory::largest_buffer;

/// The system has not so much memory, or the device no buffer as large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvMemoryError {
    /// The host refused.
    #[error("{bytes} bytes for the keys and values of one layer cannot be allocated: ask for fewer blocks")]
    Host {
        /// Bytes asked for.
        bytes: usize,
    },
    /// A device's buffers are smaller.
    #[error(
        "{bytes} bytes for the keys and values of one layer are more than one buffer of this device holds: at most {blocks} \
         blocks fit into its {most} bytes"
    )]
    Buffer {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes of the largest buffer.
        most: usize,
        /// Blocks that it has room for.
        blocks: usize,
    },
}

/// A cache as the ops see it.
#[derive(Clone, Debug, ExtensionType)]
pub enum KvCache<B: Backend> {
    /// `[blocks * block_size, 2 * kv * width]`: a token's keys, head by head, then its values.
    Plain(FloatTensor<B>),
    /// As the CPU's kernels read it.
    Panels(Arc<KvPanels>),
}

/// Keys and values of one layer. Written in place: what copies them is a mistake.
#[derive(Debug)]
pub struct KvLayer {
    cache: Option<KvCache<Dispatch>>,
    shape: KvShape,
    device: Device,
    dtype: DType,
}

impl KvLayer {
    /// Room for `shape` in `dtype` on `device`; no slot has been written.
    ///
    /// # Errors
    /// When the host has not so much memory, or a GPU no buffer as large.
    pub fn new(shape: KvShape, device: &Device, dtype: DType) -> Result<Self, KvMemoryError> {
        let panels = match Form::of(device, dtype) {
            Form::Plain => return Self::plain(shape, device, dtype),
            Form::PanelsF32 => KvPanels::new::<f32>(shape),
            Form::PanelsBf16 => KvPanels::new::<bf16>(shape),
        };
        let panels = panels.map_err(|NoMemory { bytes }| KvMemoryError::Host { bytes })?;
        Ok(Self { cache: Some(KvCache::Panels(Arc::new(panels))), shape, device: device.clone(), dtype })
    }

    /// The same as a plain tensor: what the reference computes with.
    ///
    /// # Errors
    /// As for [`KvLayer::new`].
    pub fn plain(shape: KvShape, device: &Device, dtype: DType) -> Result<Self, KvMemoryError> {
        let block_bytes = plain_block_bytes(shape.block_size, shape.heads, dtype);
        let bytes = shape.blocks.saturating_mul(block_bytes);
        if is_cpu(device) {
            // Asked first, because the tensor's own allocation would end the process.
            let mut probe = Vec::<u8>::new();
            probe.try_reserve_exact(bytes).map_err(|_| KvMemoryError::Host { bytes })?;
        } else {
            let most = largest_buffer(device, dtype);
            if bytes > most {
                return Err(KvMemoryError::Buffer { bytes, most, blocks: most / block_bytes.max(1) });
            }
        }
        let slots = shape.blocks * shape.block_size;
        let columns = 2 * shape.heads.kv * shape.heads.width;
        // In a place of its own: the device's pools, which size their pages by what they have served, never see it. As one
        // row first, because some allocators pad rows.
        let zeros = |()| Tensor::<1>::zeros([slots * columns], (device, dtype));
        let values = device.memory_persistent_allocations((), zeros).reshape([slots, columns]);
        let cache = Some(KvCache::Plain(values.into_dispatch()));
        Ok(Self { cache, shape, device: device.clone(), dtype })
    }

    /// Bytes of one block of `block_size` tokens in the form that [`KvLayer::new`] gives it.
    pub fn block_bytes(block_size: usize, heads: KvHeads, device: &Device, dtype: DType) -> usize {
        let shape = KvShape { blocks: 1, block_size, heads };
        match Form::of(device, dtype) {
            Form::Plain => plain_block_bytes(block_size, heads, dtype),
            Form::PanelsF32 => KvPanels::block_bytes::<f32>(shape),
            Form::PanelsBf16 => KvPanels::block_bytes::<bf16>(shape),
        }
    }

    /// Most blocks of `block_size` tokens that one layer's buffer holds on `device`.
    pub fn most_blocks(block_size: usize, heads: KvHeads, device: &Device, dtype: DType) -> usize {
        if is_cpu(device) {
            return usize::MAX;
        }
        largest_buffer(device, dtype) / plain_block_bytes(block_size, heads, dtype).max(1)
    }

    /// All keys and values, `[blocks * block_size, 2 * kv * width]`, as f32: a token's keys, head by head, then its values.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.cache() {
            KvCache::Plain(values) => Tensor::<2>::from_dispatch(values).into_data().iter::<f32>().collect(),
            KvCache::Panels(panels) => panels.unpack(),
        }
    }

    /// Its size.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Dtype of keys and values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The cache, to be read.
    pub(crate) fn cache(&self) -> KvCache<Dispatch> {
        self.cache.clone().expect(WHOLE)
    }

    /// Writes the cache. Taken, not cloned: with one handle the write is in place. Should it panic, this layer is of no more
    /// use and its owner builds another.
    pub(crate) fn write<T>(&mut self, write: impl FnOnce(KvCache<Dispatch>) -> (T, KvCache<Dispatch>)) -> T {
        let (result, cache) = write(self.cache.take().expect(WHOLE));
        self.cache = Some(cache);
        result
    }
}

const WHOLE: &str = "a write to these keys and values has panicked";

/// The form in which a device holds keys and values.
enum Form {
    Plain,
    PanelsF32,
    PanelsBf16,
}

impl Form {
    fn of(device: &Device, dtype: DType) -> Self {
        match dtype {
            DType::F32 if is_cpu(device) => Form::PanelsF32,
            DType::BF16 if is_cpu(device) => Form::PanelsBf16,
            _ => Form::Plain,
        }
    }
}

fn plain_block_bytes(block_size: usize, heads: KvHeads, dtype: DType) -> usize {
    [2, block_size, heads.kv, heads.width, dtype.size()].into_iter().fold(1, usize::saturating_mul)
}
