//! Queries, keys, weights and values as the products read them.

use std::ops::Range;

use half::bf16;

use super::{Head, Job};
use crate::aligned::AlignedBuffer;
use crate::element::Element;
use crate::packed_matrix::{PANEL, STEP_BYTES, WeightFormat};
use crate::target::{LANES, Target};
use crate::tile::{MAX_ROWS, TileKernel};

/// Keys and values of one head and some keys.
#[derive(Default)]
pub(super) struct HeadPanels {
    keys: AlignedBuffer,
    values: AlignedBuffer,
    key_bytes: usize,
    value_bytes: usize,
}

/// Rows as a product reads them.
#[derive(Clone, Copy)]
pub(super) struct ProductRows {
    /// The first row.
    pub data: *const u8,
    /// Bytes from row to row.
    pub stride: usize,
    /// Steps of the product.
    pub steps: usize,
}

/// Some rows for a product: queries, or the weights of keys.
#[derive(Default)]
pub(super) struct QueryRows {
    rows: AlignedBuffer,
    /// Bytes from row to row.
    pub stride: usize,
    /// Steps of the product.
    pub steps: usize,
}

impl HeadPanels {
    /// Lays out the keys and values of the rows `keys` of the head's sequence.
    #[inline(always)]
    pub fn fill<I: Target, E: Element>(&mut self, job: &Job<'_, E>, head: Head, keys: Range<usize>) {
        let (call, width) = (&job.call, job.call.heads.width);
        let count = keys.len();
        let at = (head.first + keys.start) * call.stride + head.head * width;
        let (k, v) = (&call.k[at..], &call.v[at..]);
        let key_steps = job.kernel.steps(job.format, width);
        // A weight of zero falls on what pads the keys to whole panels, so the values there must be finite.
        let value_steps = job.kernel.steps(job.format, count.next_multiple_of(PANEL));
        (self.key_bytes, self.value_bytes) = (key_steps * STEP_BYTES, value_steps * STEP_BYTES);
        let key_words = self.keys.at_least::<u32>(count.div_ceil(PANEL) * key_steps * PANEL);
        let value_words = self.values.at_least::<u32>(width.div_ceil(PANEL) * value_steps * PANEL);
        if E::FORMAT == job.format {
            key_words_of::<I, E>((k, call.stride), (count, width), (key_words, key_steps));
        } else {
            for (j, k) in k.chunks(call.stride).take(count).enumerate() {
                let words = &mut key_words[(j / PANEL) * key_steps * PANEL + j % PANEL..];
                for (s, k) in k[..width].iter().enumerate() {
                    words[s * PANEL] = k.to_f32().to_bits();
                }
            }
        }
        match job.format {
            WeightFormat::Bf16 => {
                for panel in 0..width.div_ceil(PANEL) {
                    let columns = panel * PANEL..width.min((panel + 1) * PANEL);
                    let words = &mut value_words[panel * value_steps * PANEL..][..value_steps * PANEL];
                    for (s, words) in words.chunks_exact_mut(PANEL).enumerate() {
                        words.fill(0);
                        if 2 * s >= count {
                            continue;
                        }
                        let even = &v[2 * s * call.stride..][columns.clone()];
                        if 2 * s + 1 < count {
                            let odd = &v[(2 * s + 1) * call.stride..][columns.clone()];
                            for ((word, even), odd) in words.iter_mut().zip(even).zip(odd) {
                                *word = pair(*even, *odd);
                            }
                        } else {
                            for (word, even) in words.iter_mut().zip(even) {
                                *word = pair(*even, E::default());
                            }
                        }
                    }
                }
            }
            _ => {
                for panel in 0..width.div_ceil(PANEL) {
                    let columns = panel * PANEL..width.min((panel + 1) * PANEL);
                    let words = &mut value_words[panel * value_steps * PANEL..][..value_steps * PANEL];
                    for (s, words) in words.chunks_exact_mut(PANEL).enumerate() {
                        if s < count {
                            let row = &v[s * call.stride..][columns.clone()];
                            for (word, v) in words.iter_mut().zip(row) {
                                *word = v.to_f32().to_bits();
                            }
                            words[columns.len()..].fill(0);
                        } else {
                            words.fill(0);
                        }
                    }
                }
            }
        }
    }

    /// The keys `32 panel ..`, by the head's columns.
    pub fn keys(&self, panel: usize) -> *const u8 {
        self.keys.values::<u8>()[panel * self.key_bytes..].as_ptr()
    }

    /// The values' columns `32 panel ..`, by keys.
    pub fn values(&self, panel: usize) -> *const u8 {
        self.values.values::<u8>()[panel * self.value_bytes..].as_ptr()
    }
}

impl QueryRows {
    /// The queries of the rows `rows` of the head's sequence: where they lie, if the product reads them so, else laid out here.
    #[inline(always)]
    pub fn queries<E: Element>(&mut self, job: &Job<'_, E>, head: Head, rows: Range<usize>) -> ProductRows {
        let (call, kernel, width) = (&job.call, &job.kernel, job.call.heads.width);
        let from = |row: usize| &call.q[(head.first + row) * call.stride + head.head * width..][..width];
        let steps = kernel.steps(job.format, width);
        if E::FORMAT == job.format && !kernel.tiles && steps * job.format.group() == width {
            let (data, stride) = (from(rows.start).as_ptr().cast(), call.stride * size_of::<E>());
            return ProductRows { data, stride, steps };
        }
        self.reserve(job.format, kernel, width);
        for (i, row) in rows.enumerate() {
            let q = from(row);
            match job.format {
                WeightFormat::Bf16 => {
                    let to = &mut self.row_values::<bf16>(i);
                    for (to, q) in to.iter_mut().zip(q) {
                        *to = bf16::from_bits((q.to_f32().to_bits() >> 16) as u16);
                    }
                    to[width..].fill(bf16::ZERO);
                }
                _ => {
                    let to = &mut self.row_values::<f32>(i);
                    for (to, q) in to.iter_mut().zip(q) {
                        *to = q.to_f32();
                    }
                }
            }
        }
        ProductRows { data: self.data(), stride: self.stride, steps: self.steps }
    }

    /// Makes place for rows of `count` values, padded to whole panels.
    pub fn reserve(&mut self, format: WeightFormat, kernel: &TileKernel, count: usize) {
        self.steps = kernel.steps(format, count);
        let padded = count.next_multiple_of(PANEL).div_ceil(format.group()).max(self.steps);
        self.stride = padded * size_of::<u32>();
        self.rows.at_least::<u8>(MAX_ROWS * self.stride);
    }

    /// The first row.
    pub fn data(&self) -> *const u8 {
        self.rows.values::<u8>().as_ptr()
    }

    /// Row `row`, and the rows behind it.
    pub fn row_mut<W: Element>(&mut self, row: usize) -> *mut W {
        self.rows.values_mut::<u8>()[row * self.stride..].as_mut_ptr().cast()
    }

    fn row_values<T: bytemuck::Pod>(&mut self, row: usize) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.rows.values_mut::<u8>()[row * self.stride..][..self.stride])
    }
}

/// The keys `k`, `[count, width]`, of which a product's words lie as it reads them, one f32 or two bf16, as panels: a row's words, `[steps, PANEL]`
/// with zeros behind the last. Up to the next sixteen keys the last key is there again, and beyond whatever lay there.
#[inline(always)]
fn key_words_of<I: Target, E: Element>(
    (k, stride): (&[E], usize),
    (count, width): (usize, usize),
    (to, steps): (&mut [u32], usize),
) {
    let group = E::FORMAT.group();
    let (words, whole) = (width / group, width / group / LANES * LANES);
    assert!(words * group == width && words <= steps);
    assert!(k.len() >= (count - 1) * stride + width && to.len() >= count.div_ceil(PANEL) * steps * PANEL);
    for first in (0..count).step_by(LANES) {
        let mut rows = [std::ptr::null::<u32>(); LANES];
        for (j, row) in rows.iter_mut().enumerate() {
            // The last key again where there is none: it weighs nothing.
            *row = k[(first + j).min(count - 1) * stride..].as_ptr().cast();
        }
        let to = &mut to[(first / PANEL) * steps * PANEL + first % PANEL..];
        for s in (0..whole).step_by(LANES) {
            // SAFETY: a row has `words` words, and a panel `steps` steps of 32, of which these are sixteen; lengths were compared.
            unsafe { I::transpose_words(&rows, s, to[s * PANEL..].as_mut_ptr(), PANEL) };
        }
        for s in whole..steps {
            for (j, row) in rows.iter().enumerate() {
                // SAFETY: as above. Values of bf16 lie on any even address.
                to[s * PANEL + j] = if s < words { unsafe { row.add(s).read_unaligned() } } else { 0 };
            }
        }
    }
}

/// Two bf16 as one word, the first in the low half.
#[inline(always)]
fn pair<E: Element>(first: E, second: E) -> u32 {
    first.to_f32().to_bits() >> 16 | second.to_f32().to_bits() & 0xffff_0000
}
