//! Memory on cache lines.

use bytemuck::{Pod, Zeroable};

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// One cache line.
#[derive(Clone, Copy, Debug, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// Plain data that begins on a cache line; grows, never shrinks.
#[derive(Debug, Default)]
pub(crate) struct AlignedBuffer {
    lines: Vec<Line>,
}

impl AlignedBuffer {
    /// `bytes` zeros.
    pub fn zeroed(bytes: usize) -> Self {
        Self { lines: vec![Line::zeroed(); bytes.div_ceil(LINE)] }
    }

    /// At least `count` values of `T`; what they are is left over from before, or 0.
    pub fn at_least<T: Pod>(&mut self, count: usize) -> &mut [T] {
        let lines = (count * size_of::<T>()).div_ceil(LINE);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line::zeroed());
        }
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..count]
    }

    /// Everything as values of `T`.
    pub fn values<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&self.lines)
    }

    /// Everything as values of `T`, to be written.
    pub fn values_mut<T: Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.lines.len() * LINE
    }
}
