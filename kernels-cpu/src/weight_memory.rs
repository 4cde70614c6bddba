//! Memory of weights, in large pages where the system gives them: a weight is read from end to end for every few rows, and
//! with pages of 4 KiB the table of pages is looked up so often that a third of the memory's speed goes with it.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use bytemuck::Pod;

use crate::aligned::LINE;
use crate::weight_slab::WeightSlab;

/// From this size on memory is a part of a slab, where the system has large pages; what is smaller is read from caches anyway.
const SHARES_FROM: usize = if cfg!(all(target_os = "linux", not(miri))) { 128 << 10 } else { usize::MAX };

/// Plain data of a fixed size that begins on a cache line.
#[derive(Debug)]
pub(crate) struct WeightMemory {
    start: NonNull<u8>,
    layout: Layout,
    /// What it is a part of; `None` is an allocation of its own.
    slab: Option<Arc<WeightSlab>>,
}

// SAFETY: plain bytes with one owner; they change through `&mut` alone.
unsafe impl Send for WeightMemory {}
// SAFETY: as above.
unsafe impl Sync for WeightMemory {}

impl WeightMemory {
    /// `bytes` zeros, and some more to the end of a cache line.
    ///
    /// # Panics
    /// When so many bytes cannot be named; where there are not so many the process ends, as with any allocation.
    pub fn zeroed(bytes: usize) -> Self {
        let size = bytes.max(1).next_multiple_of(LINE);
        let layout = Layout::from_size_align(size, LINE).expect("a size that can be named");
        let (slab, start) = if size >= SHARES_FROM {
            let (slab, start) = WeightSlab::part(size);
            (Some(slab), start)
        } else {
            // SAFETY: the size is not 0.
            let start = NonNull::new(unsafe { alloc(layout) });
            (None, start.unwrap_or_else(|| handle_alloc_error(layout)))
        };
        // SAFETY: `size` bytes that nobody else has.
        unsafe { start.write_bytes(0, size) };
        Self { start, layout, slab }
    }

    /// Everything as values of `T`.
    pub fn values<T: Pod>(&self) -> &[T] {
        const { assert!(align_of::<T>() <= LINE && LINE.is_multiple_of(size_of::<T>())) };
        // SAFETY: all bytes were written, any of them make plain values, and the start is aligned for these.
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.layout.size() / size_of::<T>()) }
    }

    /// Everything as values of `T`, to be written.
    pub fn values_mut<T: Pod>(&mut self) -> &mut [T] {
        const { assert!(align_of::<T>() <= LINE && LINE.is_multiple_of(size_of::<T>())) };
        // SAFETY: as above, and nobody else has them.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.layout.size() / size_of::<T>()) }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for WeightMemory {
    fn drop(&mut self) {
        if self.slab.is_none() {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.start.as_ptr(), self.layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_any_size_is_zero_whole_and_aligned() {
        for bytes in [0, 1, 64, 65, (128 << 10) - 64, 128 << 10, (2 << 20) + 1, (5 << 20) + 4096 + 3] {
            let mut memory = WeightMemory::zeroed(bytes);
            assert!(memory.bytes() >= bytes && memory.bytes() < bytes.max(1) + LINE);
            assert!(memory.values::<u8>().iter().all(|byte| *byte == 0));
            assert!(memory.values::<u8>().as_ptr().addr().is_multiple_of(LINE));
            memory.values_mut::<f32>().fill(1.0);
            assert_eq!(memory.values::<f32>().len() * 4, memory.bytes());
            assert!(memory.values::<f32>().iter().all(|value| *value == 1.0));
        }
    }
}
