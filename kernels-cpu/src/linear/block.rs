//! Some rows of a layer and what is made of them before the product: operand, `A x`, and place for sums.

use std::cell::RefCell;
use std::ops::Range;

use super::Layer;
use super::operand::{Operand, OperandBuffer};
use super::shrink::{Hidden, shrink_packed};
use super::sums::Rows;
use crate::aligned::AlignedBuffer;
use crate::element::Element;
use crate::lora::{segments_in, shrink};
use crate::packed_lora::PackedLora;
use crate::packed_matrix::PANEL;
use crate::shared_out::SharedOut;
use crate::target::Target;

/// Memory of a thread, kept from call to call.
#[derive(Default)]
pub(super) struct Scratch {
    operand: OperandBuffer,
    hidden: AlignedBuffer,
    sums: AlignedBuffer,
}

thread_local! {
    pub(super) static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Some rows with what the product needs of them.
pub(super) struct Block {
    pub rows: Range<usize>,
    pub operand: Operand,
    /// `A x`.
    pub hidden: Hidden,
    /// Where sums go that a norm follows, `[rows, outputs]`.
    pub before_norm: Option<SharedOut<f32>>,
    /// Whether several threads compute its panels.
    pub is_shared: bool,
}

// SAFETY: a block points into the layer's input and into scratch memory, of which tasks write disjoint rows of the operand and
// of `A x` before anybody reads them, and disjoint columns of the sums.
unsafe impl Sync for Block {}

impl Default for Block {
    fn default() -> Self {
        let (operand, hidden) = (Operand::nothing(), Hidden::nothing());
        Self { rows: 0..0, operand, hidden, before_norm: None, is_shared: false }
    }
}

impl Block {
    /// Whether adapters' `A x` is made of the rows.
    pub fn has_hidden(&self) -> bool {
        self.hidden.stride > 0
    }

    /// Whether nothing is to be made of the rows before the product.
    pub fn is_prepared(&self) -> bool {
        !self.has_hidden() && self.operand.is_filled()
    }

    /// The rows `part` of the tile that begins at row `first`, with its sums and the block's place for results.
    #[inline(always)]
    pub fn part<O>(
        &self,
        part: Range<usize>,
        first: usize,
        sums: *mut u32,
        (out, stride): (*mut O, usize),
    ) -> Rows<O> {
        let (in_tile, in_block) = (part.start - first, part.start - self.rows.start);
        Rows {
            sums: sums.wrapping_add(in_tile * PANEL),
            count: part.len(),
            first: part.start,
            scales: self.operand.scales.wrapping_add(in_block),
            hidden: self.hidden.at_row(in_block),
            out: (out.wrapping_add(in_block * stride), stride),
        }
    }
}

/// Makes place for the rows' operand, `A x` and sums; `block` points into `scratch` from then on.
pub(super) fn place_block<E: Element>(
    layer: &Layer<'_, E>,
    rows: Range<usize>,
    scratch: &mut Scratch,
    block: &mut Block,
) {
    let Layer { call, kernel, packed, expand, .. } = layer;
    let (inputs, outputs) = (call.weight.inputs(), call.weight.outputs());
    let x = &call.x[rows.start * inputs..rows.end * inputs];
    block.operand = Operand::place(kernel, call.weight, x, &mut scratch.operand);
    let mut width = 0;
    for (_, segment) in segments_in(call.lora, rows.clone()) {
        width =
            width.max(if *packed { segment.packed.map_or(0, PackedLora::width) } else { segment.ranks() });
    }
    if width > 0 {
        block.hidden = Hidden::new(expand, width, rows.len(), &mut scratch.hidden);
    }
    if call.norm.is_some() {
        block.before_norm = Some(SharedOut(scratch.sums.at_least::<f32>(rows.len() * outputs).as_mut_ptr()));
    }
    block.rows = rows;
}

/// The operand and `A x` of the block's rows `rows`, counted from its first, which nobody else prepares.
#[inline(always)]
pub(super) fn prepare_rows_body<I: Target, E: Element>(
    layer: &Layer<'_, E>,
    block: &Block,
    rows: Range<usize>,
) {
    let Layer { call, kernel, packed, .. } = layer;
    let inputs = call.weight.inputs();
    let x = &call.x[block.rows.start * inputs..block.rows.end * inputs];
    // SAFETY: the block's operand was placed for these rows; tasks prepare disjoint ones.
    unsafe { block.operand.fill::<I, E>(kernel.operand, (x, inputs), rows.clone()) };
    if !block.has_hidden() {
        return;
    }
    if *packed {
        shrink_packed::<I>((kernel, &block.operand), (block.rows.clone(), rows), call.lora, &block.hidden);
    } else {
        let (hidden, stride) = block.hidden.values_at(rows.start);
        // SAFETY: as above; the place is for f32, as the expand of plain adapters reads it.
        let hidden = unsafe { std::slice::from_raw_parts_mut(hidden, rows.len() * stride) };
        let rows = block.rows.start + rows.start..block.rows.start + rows.end;
        shrink::<I, E>((call.x, inputs), rows, call.lora, hidden, stride);
    }
}
