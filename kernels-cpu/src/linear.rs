//! A linear layer with all that follows it, in order: gain, LoRA, bias, activation, residual, norm.

mod operand;
mod panel;

use std::cell::RefCell;
use std::ops::Range;

use crate::aligned::AlignedBuffer;
use crate::element::Element;
use crate::epilogue::Activation;
use crate::isa::Isa;
use crate::lora::{LoraSegment, segments_in, shrink};
use crate::norm::{NormParams, layer_norm};
use crate::packed_matrix::{PANEL, PackedMatrix, STEP_BYTES, WeightFormat};
use crate::shared_out::SharedOut;
use crate::target::{Target, dispatch};
use crate::team::{self, PARTS};
use crate::tile::{SumsTile, TileCall, TileKernel};
use operand::{Operand, OperandBuffer, prepare};
use panel::{Effect, Panel, Rows};

/// Most rows of one task: with their operand they stay in the second-level cache while the panels go by.
const BLOCK_ROWS: usize = 112;
/// The same for tiles, which are through a panel before the next one could come from memory.
const TILE_BLOCK_ROWS: usize = 384;
/// Panels rather than rows are split where a thread would have fewer rows than this.
const FEW_ROWS: usize = 64;
/// Fewest rows of a block, where there are several for each thread.
const FEWEST_ROWS: usize = 28;
/// Rows of one task of a norm by itself.
const NORM_ROWS: usize = 32;

/// Everything one linear layer computes.
#[derive(Clone, Copy, Debug)]
pub struct LinearCall<'a, E> {
    /// Input, `[rows, inputs]` row-major.
    pub x: &'a [E],
    /// Weight.
    pub weight: &'a PackedMatrix,
    /// Bias, `[outputs]`.
    pub bias: Option<&'a [f32]>,
    /// The rows' adapters; segments in order, not overlapping; rows in none are base rows.
    pub lora: &'a [LoraSegment<'a>],
    /// Activation after the bias.
    pub activation: Activation,
    /// Added after the activation, `[rows, outputs]`.
    pub residual: Option<&'a [E]>,
    /// Normalisation of the result.
    pub norm: Option<NormParams<'a>>,
}

/// Computes the layer into `out`, `[rows, outputs]`, on the threads of the [`team`].
///
/// # Panics
/// When a length does not fit the widths, or there are no inputs.
pub fn linear<E: Element>(isa: Isa, call: LinearCall<'_, E>, out: &mut [E]) {
    isa.require();
    let (inputs, outputs) = (call.weight.inputs(), call.weight.outputs());
    if outputs == 0 || out.is_empty() {
        return;
    }
    let rows = out.len() / outputs;
    assert!(inputs > 0, "a layer without inputs");
    assert_eq!(out.len(), rows * outputs, "out is not [rows, {outputs}]");
    assert_eq!(call.x.len(), rows * inputs, "x is not [{rows}, {inputs}]");
    assert!(call.bias.is_none_or(|b| b.len() == outputs), "bias is not [{outputs}]");
    assert!(call.residual.is_none_or(|r| r.len() == out.len()), "residual is not [{rows}, {outputs}]");
    let norm_fits = |n: NormParams<'_>| n.gamma.len() == outputs && n.beta.len() == outputs;
    assert!(call.norm.is_none_or(norm_fits), "the norm is not of width {outputs}");
    assert!(call.lora.iter().all(|s| s.rows.end <= rows), "a segment ends beyond the {rows} rows");
    assert!(call.lora.windows(2).all(|s| s[0].rows.end <= s[1].rows.start), "segments overlap");
    call.lora.iter().flat_map(|s| &s.spans).for_each(|span| span.check(inputs, outputs));
    let layer = Layer {
        call,
        kernel: TileKernel::choose(isa, call.weight.format()),
        expand: TileKernel::choose(isa, WeightFormat::F32),
        out: SharedOut(out.as_mut_ptr()),
    };
    let threads = team::threads();
    if threads > 1 && rows < FEW_ROWS * threads {
        return by_panels(isa, &layer, rows, threads);
    }
    let tiles = layer.kernel.tiles;
    let most = if tiles { TILE_BLOCK_ROWS } else { BLOCK_ROWS };
    // As many blocks for each thread; with registers, rows of a block are shared out evenly among its tiles.
    let parts = (rows / (threads * FEWEST_ROWS)).clamp(1, PARTS).max(rows.div_ceil(threads * most));
    let share =
        if threads == 1 { rows.div_ceil(rows.div_ceil(most)) } else { rows.div_ceil(threads * parts) };
    let block = if tiles { share.next_multiple_of(layer.kernel.max_rows()) } else { share };
    team::for_each(rows.div_ceil(block), |i| {
        let mut scratch = SCRATCH.take();
        whole_rows(isa, &layer, i * block..rows.min((i + 1) * block), &mut scratch);
        SCRATCH.set(scratch);
    });
}

/// A call with what it is computed with.
struct Layer<'a, E> {
    call: LinearCall<'a, E>,
    kernel: TileKernel,
    /// For `B h`.
    expand: TileKernel,
    out: SharedOut<E>,
}

/// Memory of a thread, kept from call to call.
#[derive(Default)]
struct Scratch {
    operand: OperandBuffer,
    hidden: AlignedBuffer,
    sums: AlignedBuffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Some rows with what the product needs of them.
struct Block {
    rows: Range<usize>,
    operand: Operand,
    /// `A x`, `[rows, hidden_stride]`.
    hidden: *const f32,
    hidden_stride: usize,
    /// Where sums go that a norm follows, `[rows, outputs]`.
    before_norm: Option<SharedOut<f32>>,
}

// SAFETY: a block points into the layer's input and into scratch memory that nobody writes but for sums, of which tasks write
// disjoint columns.
unsafe impl Sync for Block {}

impl Default for Block {
    fn default() -> Self {
        Self {
            rows: 0..0,
            operand: Operand::nothing(),
            hidden: std::ptr::null(),
            hidden_stride: 0,
            before_norm: None,
        }
    }
}

dispatch! {
    fn whole_rows<E: Element>(layer: &Layer<'_, E>, rows: Range<usize>, scratch: &mut Scratch) = whole_rows_body
}
dispatch! {
    fn prepare_block<E: Element>(
        layer: &Layer<'_, E>, rows: Range<usize>, scratch: &mut Scratch, block: &mut Block,
    ) = prepare_block_body
}
dispatch! {
    fn some_panels<E: Element>(layer: &Layer<'_, E>, block: &Block, panels: Range<usize>) = some_panels_body
}
dispatch! {
    fn normalize_rows<E: Element>(layer: &Layer<'_, E>, block: &Block, rows: Range<usize>) = normalize_rows_body
}

/// A few rows: one block, its panels split among the threads.
fn by_panels<E: Element>(isa: Isa, layer: &Layer<'_, E>, rows: usize, threads: usize) {
    let panels = layer.call.weight.panel_count();
    let part = panels.div_ceil(threads * PARTS);
    let mut scratch = SCRATCH.take();
    let mut block = Block::default();
    prepare_block(isa, layer, 0..rows, &mut scratch, &mut block);
    team::for_each(panels.div_ceil(part), |i| {
        some_panels(isa, layer, &block, i * part..panels.min((i + 1) * part));
    });
    team::for_each(rows.div_ceil(NORM_ROWS), |i| {
        normalize_rows(isa, layer, &block, i * NORM_ROWS..rows.min((i + 1) * NORM_ROWS));
    });
    SCRATCH.set(scratch);
}

// No closure below: a closure would be compiled for the baseline.

#[inline(always)]
fn whole_rows_body<I: Target, E: Element>(layer: &Layer<'_, E>, rows: Range<usize>, scratch: &mut Scratch) {
    let mut block = Block::default();
    prepare_block_body::<I, E>(layer, rows, scratch, &mut block);
    some_panels_body::<I, E>(layer, &block, 0..layer.call.weight.panel_count());
    normalize_rows_body::<I, E>(layer, &block, 0..block.rows.len());
}

/// Readies the rows' operand and `A x`; `block` points into `scratch` from then on.
#[inline(always)]
fn prepare_block_body<I: Target, E: Element>(
    layer: &Layer<'_, E>,
    rows: Range<usize>,
    scratch: &mut Scratch,
    block: &mut Block,
) {
    let Layer { call, kernel, .. } = layer;
    let (inputs, outputs) = (call.weight.inputs(), call.weight.outputs());
    let x = &call.x[rows.start * inputs..rows.end * inputs];
    block.operand = prepare::<I, E>(kernel, call.weight, x, &mut scratch.operand);
    let mut ranks = 0;
    for (_, segment) in segments_in(call.lora, rows.clone()) {
        ranks = ranks.max(segment.ranks());
    }
    if ranks > 0 {
        let hidden = scratch.hidden.at_least::<f32>(rows.len() * ranks);
        shrink::<I, E>((call.x, inputs), rows.clone(), call.lora, hidden, ranks);
        (block.hidden, block.hidden_stride) = (hidden.as_ptr(), ranks);
    }
    if call.norm.is_some() {
        block.before_norm = Some(SharedOut(scratch.sums.at_least::<f32>(rows.len() * outputs).as_mut_ptr()));
    }
    block.rows = rows;
}

/// The product and what follows it, but for the norm, for all of the block's rows and some panels.
#[inline(always)]
fn some_panels_body<I: Target, E: Element>(layer: &Layer<'_, E>, block: &Block, panels: Range<usize>) {
    let outputs = layer.call.weight.outputs();
    match &block.before_norm {
        Some(sums) => product::<I, E, f32>(layer, block, panels, (sums.0, outputs)),
        None => {
            // SAFETY: the block's rows are within the result.
            let first = unsafe { layer.out.0.add(block.rows.start * outputs) };
            product::<I, E, E>(layer, block, panels, (first, outputs));
        }
    }
}

/// `out`: the block's first row, and values from row to row.
#[inline(always)]
fn product<I: Target, E: Element, O: Element>(
    layer: &Layer<'_, E>,
    block: &Block,
    panels: Range<usize>,
    out: (*mut O, usize),
) {
    let Layer { call, kernel, .. } = layer;
    let (mut sums, mut effect) = (SumsTile::default(), Effect::none());
    let count = block.rows.len();
    let _tiles = kernel.begin();
    for index in panels {
        let panel = Panel::new(call, index);
        let mut adapter: Option<&LoraSegment<'_>> = None;
        let weights = call.weight.panel(index).as_ptr();
        let mut at = 0;
        while at < count {
            let rows = kernel.rows_of(count, at);
            let operand = &block.operand;
            let tile = TileCall {
                a: operand.row(at),
                stride: operand.stride,
                panel: weights,
                panel_stride: STEP_BYTES,
                steps: operand.steps,
                out: sums.0.as_mut_ptr(),
            };
            // SAFETY: the kernel was chosen for an instruction set that the machine has; the operand has the rows that
            // it reads and the matrix the panel, both of `steps` steps; a tile has room for the most rows of any kernel.
            unsafe { kernel.function(rows)(&tile) };
            let first = block.rows.start + at;
            let whole = first..first + rows;
            let mut done = first;
            for (part, segment) in segments_in(call.lora, whole.clone()) {
                if !adapter.is_some_and(|before| std::ptr::eq(before, segment)) {
                    panel.effect_of(segment, &mut effect);
                    adapter = Some(segment);
                }
                let base = block.part(done..part.start, first, &sums, out);
                let own = block.part(part.clone(), first, &sums, out);
                // SAFETY: the parts are of this tile; see `Block::part`.
                unsafe {
                    panel.finish::<I, O>(&base, None);
                    effect.expand::<I>(&layer.expand, own.hidden, own.count);
                    panel.finish::<I, O>(&own, Some(&effect));
                }
                done = part.end;
            }
            // SAFETY: as above.
            unsafe { panel.finish::<I, O>(&block.part(done..whole.end, first, &sums, out), None) };
            at += rows;
        }
    }
}

/// The norm of the block's rows `rows`, counted from its first.
#[inline(always)]
fn normalize_rows_body<I: Target, E: Element>(layer: &Layer<'_, E>, block: &Block, rows: Range<usize>) {
    let (Some(norm), Some(sums)) = (layer.call.norm, &block.before_norm) else {
        return;
    };
    let outputs = layer.call.weight.outputs();
    for r in rows {
        let row = block.rows.start + r;
        // SAFETY: the block's sums have its rows, the result has all rows, and no other task writes these.
        unsafe { layer_norm::<I, E>(sums.0.add(r * outputs), norm, layer.out.0.add(row * outputs)) };
    }
}

impl Block {
    /// The rows `part` of the tile that begins at row `first`.
    #[inline(always)]
    fn part<O>(
        &self,
        part: Range<usize>,
        first: usize,
        sums: &SumsTile,
        (out, stride): (*mut O, usize),
    ) -> Rows<O> {
        let (in_tile, in_block) = (part.start - first, part.start - self.rows.start);
        Rows {
            sums: sums.0[in_tile * PANEL..].as_ptr(),
            count: part.len(),
            first: part.start,
            scales: self.operand.scales.wrapping_add(in_block),
            hidden: (self.hidden.wrapping_add(in_block * self.hidden_stride), self.hidden_stride),
            out: (out.wrapping_add(in_block * stride), stride),
        }
    }
}
