//! Memory of weights, in large pages where the system gives them: a weight is read from end to end for every few rows, and
//! with pages of 4 KiB the table of pages is looked up so often that a third of the memory's speed goes with it.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::slice;

use bytemuck::Pod;

const LINE: usize = 64;
/// A large page of x86-64 and of aarch64 with pages of 4 KiB.
const LARGE_PAGE: usize = 2 << 20;

/// Plain data of a fixed size that begins on a cache line, or on a large page where it fills one.
#[derive(Debug)]
pub(crate) struct WeightMemory {
    start: NonNull<u8>,
    layout: Layout,
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
        let align = if bytes >= LARGE_PAGE { LARGE_PAGE } else { LINE };
        let size = bytes.max(1).next_multiple_of(LINE);
        let layout = Layout::from_size_align(size, align).expect("a size that can be named");
        // SAFETY: the size is not 0.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        ask_for_large_pages(start, size);
        // Only now: a page is as large as asked for when it is first written.
        // SAFETY: `size` bytes were allocated.
        unsafe { start.write_bytes(0, size) };
        Self { start, layout }
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
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Advice that the system may ignore: whole large pages of these bytes shall be such.
#[cfg(all(target_os = "linux", not(miri)))]
fn ask_for_large_pages(start: NonNull<u8>, size: usize) {
    let whole = size - size % LARGE_PAGE;
    if whole > 0 {
        // SAFETY: the bytes are this allocation's own; the advice changes nothing of what they are.
        unsafe { libc::madvise(start.as_ptr().cast(), whole, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn ask_for_large_pages(_: NonNull<u8>, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_any_size_is_zero_whole_and_aligned() {
        for bytes in [0, 1, 64, 65, LARGE_PAGE - 1, LARGE_PAGE, 2 * LARGE_PAGE + 4096 + 3] {
            let mut memory = WeightMemory::zeroed(bytes);
            assert!(memory.bytes() >= bytes && memory.bytes() < bytes.max(1) + LINE);
            assert!(memory.values::<u8>().iter().all(|byte| *byte == 0));
            let aligned = if bytes >= LARGE_PAGE { LARGE_PAGE } else { LINE };
            assert!(memory.values::<u8>().as_ptr().addr().is_multiple_of(aligned));
            memory.values_mut::<f32>().fill(1.0);
            assert_eq!(memory.values::<f32>().len() * 4, memory.bytes());
            assert!(memory.values::<f32>().iter().all(|value| *value == 1.0));
        }
    }
}
