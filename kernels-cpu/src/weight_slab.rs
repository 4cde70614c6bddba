//! Slabs that weights share, so that all of their pages are large ones.
//!
//! A weight alone fills whole large pages and then a part of one, and one smaller than a large page fills none: of a small
//! language model a fifth of the bytes would be read through pages of 4 KiB. Memory of a slab is the system's own, never what
//! the heap had in use before: a page that was written while it was small stays small.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::aligned::LINE;

/// A large page of x86-64 and of aarch64 with pages of 4 KiB.
const LARGE_PAGE: usize = 2 << 20;
/// Bytes of a slab: more than any heap keeps for later. Only what is written takes memory.
const SLAB: usize = 64 << 20;

/// Memory of whole large pages, given out from its start to its end and back as a whole, when nobody has a part any more.
#[derive(Debug)]
pub(crate) struct WeightSlab {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain bytes; whoever was given a part is its only owner.
unsafe impl Send for WeightSlab {}
// SAFETY: as above.
unsafe impl Sync for WeightSlab {}

/// The slab that parts are taken of now, and how many of its bytes are given out.
#[derive(Debug)]
struct Open {
    slab: Weak<WeightSlab>,
    taken: usize,
}

static OPEN: Mutex<Open> = Mutex::new(Open { slab: Weak::new(), taken: 0 });

impl WeightSlab {
    /// `size` bytes that nobody else has, with what they are a part of. They begin on a cache line and hold anything.
    pub(crate) fn part(size: usize) -> (Arc<Self>, NonNull<u8>) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let current = open.slab.upgrade();
        let from = open.taken.next_multiple_of(LINE);
        if let Some((slab, part)) = current.as_ref().and_then(|slab| Some((slab, slab.at(from, size)?))) {
            open.taken = from + size;
            return (Arc::clone(slab), part);
        }
        let slab = Arc::new(Self::with_room_for(size));
        let part = slab.at(0, size).expect("room for what it was made for");
        let left = current.map_or(0, |slab| slab.layout.size() - open.taken);
        if slab.layout.size() - size > left {
            *open = Open { slab: Arc::downgrade(&slab), taken: size };
        }
        (slab, part)
    }

    fn with_room_for(size: usize) -> Self {
        let layout = size.checked_next_multiple_of(LARGE_PAGE).map(|size| size.max(SLAB));
        let layout = layout.and_then(|size| Layout::from_size_align(size, LARGE_PAGE).ok());
        let layout = layout.expect("a size that can be named");
        // SAFETY: the size is not 0.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        ask_for_large_pages(start, layout.size());
        Self { start, layout }
    }

    fn at(&self, from: usize, size: usize) -> Option<NonNull<u8>> {
        let end = from.checked_add(size)?;
        // SAFETY: within what was allocated.
        (end <= self.layout.size()).then(|| unsafe { self.start.add(from) })
    }
}

impl Drop for WeightSlab {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Advice that the system may ignore: these bytes shall be in large pages, which count from the first write on.
#[cfg(all(target_os = "linux", not(miri)))]
fn ask_for_large_pages(start: NonNull<u8>, size: usize) {
    // SAFETY: the bytes are this allocation's own; the advice changes nothing of what they are.
    unsafe { libc::madvise(start.as_ptr().cast(), size, libc::MADV_HUGEPAGE) };
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn ask_for_large_pages(_: NonNull<u8>, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_apart_and_live_as_long_as_anybody_has_them() {
        let sizes = [1, 64, 4096 + 3, SLAB / 2, SLAB / 2 + 1, LARGE_PAGE, SLAB, SLAB + 1, 64];
        let parts: Vec<_> = sizes.iter().map(|size| WeightSlab::part(*size)).collect();
        for (number, ((_, part), size)) in parts.iter().zip(sizes).enumerate() {
            assert!(part.as_ptr().addr().is_multiple_of(LINE));
            // SAFETY: the part is this test's own.
            unsafe { part.as_ptr().write_bytes(number as u8, size) };
        }
        // Others of the same slabs go first.
        let parts: Vec<_> = parts.into_iter().enumerate().filter(|(number, _)| number % 2 == 0).collect();
        for (number, (_, part)) in &parts {
            // SAFETY: as above, and written.
            let bytes = unsafe { std::slice::from_raw_parts(part.as_ptr(), sizes[*number]) };
            assert!(bytes.iter().all(|byte| *byte == *number as u8), "part {number}");
        }
    }
}
