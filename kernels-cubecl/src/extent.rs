//! Where an adapter's values lie: one contiguous, 64-byte-aligned, rank-exact extent per adapter.
//!
//! The idea of one memory for adapters of different ranks is S-LoRA's (arXiv 2311.03285); here an extent is
//! contiguous, so no page width has to be chosen and no maximum rank declared.

use std::sync::OnceLock;

use bytemuck::{Pod, Zeroable};
use polylora_kernels_cpu::{PackedLora, WeightFormat};

/// Number of a projection that LoRA may change in a base model; given out by a site catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(pub u32);

/// Alignment of every block within an extent, in f32 elements (64 bytes).
pub const EXTENT_ALIGN: usize = 16;

/// Shape of what one adapter brings to one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteShape {
    /// The site.
    pub site: SiteId,
    /// Width of the input.
    pub in_width: usize,
    /// Width of the output.
    pub out_width: usize,
    /// LoRA rank; 0 when the adapter brings only a bias or a gain here.
    pub rank: usize,
    /// Whether a gain vector (DoRA's `g`) is stored.
    pub has_gain: bool,
    /// Whether a bias that replaces the base's is stored.
    pub has_bias: bool,
}

/// Where one site's blocks lie within its extent; offsets in elements from the extent's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteSlot {
    /// What is stored.
    pub shape: SiteShape,
    /// `A`, `[rank, in_width]` row-major.
    pub a: usize,
    /// `B` transposed, `[rank, out_width]` row-major, with scale and gain folded in.
    pub b: usize,
    /// Gain `g`, `[out_width]`.
    pub gain: Option<usize>,
    /// Bias `b_a`, `[out_width]`.
    pub bias: Option<usize>,
}

/// The slots of one adapter and the extent's length.
///
/// The `A` blocks of neighbouring sites (q, k, v of one layer have neighbouring ids) are neighbours in memory, so
/// that one shrink can serve sites that share an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentLayout {
    slots: Vec<SiteSlot>,
    len: usize,
    most_packed_bytes: usize,
}

impl ExtentLayout {
    /// Lays out `shapes`; `groups` tells which sites share an input (equal keys lie side by side).
    ///
    /// # Panics
    /// When a site occurs twice.
    pub fn new(mut shapes: Vec<SiteShape>, group_of: impl Fn(SiteId) -> u32) -> Self {
        shapes.sort_by_key(|s| s.site);
        assert!(shapes.windows(2).all(|w| w[0].site < w[1].site), "a site occurs twice in one adapter");
        let mut slots: Vec<SiteSlot> =
            shapes.into_iter().map(|shape| SiteSlot { shape, a: 0, b: 0, gain: None, bias: None }).collect();
        let (mut len, mut most_packed_bytes) = (0, 0);
        let mut take = |elements: usize| {
            let at = len;
            len += elements.next_multiple_of(EXTENT_ALIGN);
            at
        };
        for group in slots.chunk_by_mut(|l, r| group_of(l.shape.site) == group_of(r.shape.site)) {
            group.iter_mut().for_each(|s| s.a = take(s.shape.rank * s.shape.in_width));
            let inputs = group.iter().map(|s| s.shape.in_width).max().unwrap_or(0);
            let spans = group.iter().map(|s| (s.shape.rank, s.shape.out_width));
            most_packed_bytes += PackedLora::most_bytes(inputs, spans);
            for slot in group {
                let width = slot.shape.out_width;
                slot.b = take(slot.shape.rank * width);
                slot.gain = slot.shape.has_gain.then(|| take(width));
                slot.bias = slot.shape.has_bias.then(|| take(width));
            }
        }
        Self { slots, len, most_packed_bytes }
    }

    /// Length in elements, a multiple of [`EXTENT_ALIGN`].
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes that what the CPU's kernels make of it beside a base in bf16 or int8 takes at most.
    pub fn most_packed_bytes(&self) -> usize {
        self.most_packed_bytes
    }

    /// Whether the adapter changes nothing.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All slots, by ascending site.
    pub fn slots(&self) -> &[SiteSlot] {
        &self.slots
    }

    /// The slot of `site`, when the adapter has an effect there.
    pub fn slot(&self, site: SiteId) -> Option<&SiteSlot> {
        self.slots.binary_search_by_key(&site, |s| s.shape.site).ok().map(|i| &self.slots[i])
    }
}

/// An adapter's values in host memory, laid out as its extent.
#[derive(Debug)]
pub struct HostExtent {
    layout: ExtentLayout,
    lines: Vec<Line>,
    /// By slot, what the CPU's kernels made of the fused layer whose first site that is.
    packed: Vec<OnceLock<Option<PackedLora>>>,
}

impl HostExtent {
    /// A zeroed extent for `layout`.
    pub fn zeroed(layout: ExtentLayout) -> Self {
        let lines = vec![Line::zeroed(); layout.len / EXTENT_ALIGN];
        let packed = layout.slots.iter().map(|_| OnceLock::new()).collect();
        Self { layout, lines, packed }
    }

    /// The form of one fused layer that the CPU's kernels compute with, made the first time; `first` is the first site of the
    /// layer that the adapter has an effect on. `None` where they read the values as they are.
    ///
    /// An extent serves one base model in one number format: the form is not asked for another way later.
    pub(crate) fn packed(
        &self,
        first: SiteId,
        format: WeightFormat,
        pack: impl FnOnce() -> Option<PackedLora>,
    ) -> Option<&PackedLora> {
        let slot = self.layout.slots.binary_search_by_key(&first, |s| s.shape.site).ok()?;
        if format == WeightFormat::F32 {
            return None;
        }
        let packed = self.packed[slot].get_or_init(pack).as_ref();
        debug_assert!(packed.is_none_or(|packed| packed.format() == format), "an extent serves one format");
        packed
    }

    /// The layout.
    pub fn layout(&self) -> &ExtentLayout {
        &self.layout
    }

    /// All values, `layout().len()` of them.
    pub fn values(&self) -> &[f32] {
        bytemuck::cast_slice(&self.lines)
    }

    /// All values, to be filled in.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.packed.iter_mut().for_each(|packed| *packed = OnceLock::new());
        bytemuck::cast_slice_mut(&mut self.lines)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.layout.len * size_of::<f32>()
    }
}

/// One cache line of values: what makes the extent 64-byte aligned.
#[derive(Clone, Copy, Debug, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([f32; EXTENT_ALIGN]);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shapes() -> impl Strategy<Value = Vec<SiteShape>> {
        proptest::collection::btree_map(
            0u32..40,
            (1usize..50, 1usize..50, 0usize..33, any::<bool>(), any::<bool>()),
            0..20,
        )
        .prop_map(|m| {
            m.into_iter()
                .map(|(site, (in_width, out_width, rank, has_gain, has_bias))| SiteShape {
                    site: SiteId(site),
                    in_width,
                    out_width,
                    rank,
                    has_gain,
                    has_bias,
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn blocks_are_aligned_inside_the_extent_and_never_overlap(shapes in shapes()) {
            let layout = ExtentLayout::new(shapes.clone(), |s| s.0 / 3);
            let mut blocks = vec![];
            for slot in layout.slots() {
                let s = slot.shape;
                blocks.push((slot.a, s.rank * s.in_width));
                blocks.push((slot.b, s.rank * s.out_width));
                prop_assert_eq!(slot.gain.is_some(), s.has_gain);
                prop_assert_eq!(slot.bias.is_some(), s.has_bias);
                blocks.extend(slot.gain.map(|at| (at, s.out_width)));
                blocks.extend(slot.bias.map(|at| (at, s.out_width)));
            }
            blocks.retain(|b| b.1 > 0);
            blocks.sort();
            for pair in blocks.windows(2) {
                prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0);
            }
            for (at, len) in blocks {
                prop_assert_eq!(at % EXTENT_ALIGN, 0);
                prop_assert!(at + len <= layout.len());
            }
            let extent = HostExtent::zeroed(layout);
            prop_assert_eq!(extent.values().as_ptr() as usize % 64, 0);
            for s in shapes {
                prop_assert_eq!(extent.layout().slot(s.site).map(|x| x.shape), Some(s));
            }
        }
    }
}
