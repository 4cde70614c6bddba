//! Memory of the tests: what begins on a cache line ends where an inaccessible page begins.
//!
//! Operands, panels and scratch memory of the kernels are cache lines without remainder, so a product that reads or writes
//! one byte beyond them ends the test process by SIGSEGV, wherever the memory was asked for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

const PAGE: usize = 4096;
const LINE: usize = 64;

#[global_allocator]
static MEMORY: FencedMemory = FencedMemory;

struct FencedMemory;

fn is_fenced(layout: Layout) -> bool {
    layout.align() == LINE && layout.size().is_multiple_of(LINE)
}

/// Bytes of the pages before the fence.
fn mapped(layout: Layout) -> usize {
    layout.size().next_multiple_of(PAGE)
}

// SAFETY: fenced memory is mapped for its layout alone, ends on a page and is whole lines long, so it begins on a line; all
// else is the system allocator's.
unsafe impl GlobalAlloc for FencedMemory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_fenced(layout) {
            // SAFETY: as the caller promises.
            return unsafe { System.alloc(layout) };
        }
        let bytes = mapped(layout);
        // SAFETY: a new mapping, of which the last page is taken away again.
        unsafe {
            let (rights, kind) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let base = libc::mmap(ptr::null_mut(), bytes + PAGE, rights, kind, -1, 0);
            if base == libc::MAP_FAILED {
                return ptr::null_mut();
            }
            if libc::mprotect(base.byte_add(bytes), PAGE, libc::PROT_NONE) != 0 {
                libc::munmap(base, bytes + PAGE);
                return ptr::null_mut();
            }
            base.byte_add(bytes - layout.size()).cast()
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if !is_fenced(layout) {
            // SAFETY: as the caller promises.
            return unsafe { System.dealloc(memory, layout) };
        }
        let bytes = mapped(layout);
        // SAFETY: the mapping that `alloc` made for this layout, fence included.
        unsafe { libc::munmap(memory.sub(bytes - layout.size()).cast(), bytes + PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use crate::aligned::AlignedBuffer;

    #[test]
    fn the_byte_behind_an_aligned_buffer_is_out_of_reach_and_its_last_one_is_not() {
        for lines in [1, 4, 63, 64, 65, 200] {
            let buffer = AlignedBuffer::zeroed(lines * super::LINE);
            let end = buffer.values::<u8>().as_ptr_range().end;
            let mut pipe = [0; 2];
            // SAFETY: the system refuses to read from where the process may not; nothing is read here.
            unsafe {
                assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
                assert_eq!(libc::write(pipe[1], end.sub(1).cast(), 1), 1);
                assert_eq!(libc::write(pipe[1], end.cast(), 1), -1);
                assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
                assert_eq!(pipe.map(|end| libc::close(end)), [0, 0]);
            }
        }
    }
}
