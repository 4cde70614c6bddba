//! A linear layer with all that follows it, in order: gain, LoRA, bias, activation, residual, norm.

mod operand;
mod panel;
mod shrink;

use std::cell::RefCell;
use std::ops::Range;

use crate::aligned::AlignedBuffer;
use crate::element::Element;
use crate::epilogue::Activation;
use crate::isa::Isa;
use crate::lora::{LoraSegment, segments_in, shrink};
use crate::norm::{NormParams, layer_norm};
use crate::packed_lora::PackedLora;
use crate::packed_matrix::{PANEL, PackedMatrix, STEP_BYTES, WeightFormat};
use crate::shared_out::SharedOut;
use crate::target::{Target, dispatch};
use crate::team::{self, PARTS};
use crate::tile::{SumsTile, TileCall, TileKernel};
use operand::{Operand, OperandBuffer, prepare};
use panel::{Effect, Panel, Rows};
use shrink::{Hidden, shrink_packed};

/// Most rows of one task: with their operand they stay in the second-level cache while the panels go by.
const BLOCK_ROWS: usize = 112;
/// The same for tiles, which are through a panel before the next one could come from memory.
const TILE_BLOCK_ROWS: usize = 384;
/// Panels rather than rows are split where a thread would have fewer rows than this.
const FEW_ROWS: usize = 64;
/// Fewest rows of a block, where there are several for each thread.
const FEWEST_ROWS: usize = 28;
/// Rows with the same adapter that are worth a tile of their own.
const FEW_ALIKE: usize = 6;
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
    call.lora.iter().filter_map(|s| s.packed).for_each(|packed| packed.check(inputs, outputs));
    let format = call.weight.format();
    let is_packed = |s: &LoraSegment<'_>| s.ranks() == 0 || s.packed.is_some_and(|p| p.format() == format);
    let packed = format != WeightFormat::F32 && call.lora.iter().all(is_packed);
    // Rows of an adapter begin and end within tiles, whose sums only registers add to.
    let registers = if isa == Isa::Amx { Isa::Avx512 } else { isa };
    let expand = if packed { WeightFormat::Bf16 } else { WeightFormat::F32 };
    let layer = Layer {
        call,
        kernel: TileKernel::choose(isa, format),
        packed,
        expand: TileKernel::choose(registers, expand),
        in_registers: isa == registers && format == expand,
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
    /// Whether all adapters are read in their packed form.
    packed: bool,
    /// For `B h`.
    expand: TileKernel,
    /// Whether that is the product's own kernel, in registers and with sums that need nothing before.
    in_registers: bool,
    out: SharedOut<E>,
}

impl<E> Layer<'_, E> {
    /// Rows of the tile that begins at row `first`, the `at`th of `count`, where the next segment's rows are `part`. A tile in
    /// registers holds no more than one adapter's rows where these are some.
    #[inline(always)]
    fn tile_rows(&self, part: Option<&Range<usize>>, first: usize, (at, count): (usize, usize)) -> usize {
        let until = match part {
            Some(part) if part.start > first => part.start,
            Some(part) => part.end,
            None => first + count - at,
        };
        let alike = until - first;
        if self.kernel.tiles || alike < FEW_ALIKE {
            return self.kernel.rows_of(count, at);
        }
        self.kernel.rows_of(alike, 0)
    }
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
    /// `A x`.
    hidden: Hidden,
    /// Where sums go that a norm follows, `[rows, outputs]`.
    before_norm: Option<SharedOut<f32>>,
}

// SAFETY: a block points into the layer's input and into scratch memory that nobody writes but for sums, of which tasks write
// disjoint columns.
unsafe impl Sync for Block {}

impl Default for Block {
    fn default() -> Self {
        Self { rows: 0..0, operand: Operand::nothing(), hidden: Hidden::nothing(), before_norm: None }
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
    block.hidden = shrink_rows::<I, E>(layer, &block.operand, rows.clone(), &mut scratch.hidden);
    if call.norm.is_some() {
        block.before_norm = Some(SharedOut(scratch.sums.at_least::<f32>(rows.len() * outputs).as_mut_ptr()));
    }
    block.rows = rows;
}

/// `A x` of the rows.
#[inline(always)]
fn shrink_rows<I: Target, E: Element>(
    Layer { call, kernel, packed, expand, .. }: &Layer<'_, E>,
    operand: &Operand,
    rows: Range<usize>,
    buffer: &mut AlignedBuffer,
) -> Hidden {
    let mut width = 0;
    for (_, segment) in segments_in(call.lora, rows.clone()) {
        width =
            width.max(if *packed { segment.packed.map_or(0, PackedLora::width) } else { segment.ranks() });
    }
    if width == 0 {
        return Hidden::nothing();
    }
    let hidden = Hidden::new(expand, width, rows.len(), buffer);
    if *packed {
        shrink_packed::<I>((kernel, operand), rows, call.lora, &hidden);
    } else {
        let values = buffer.at_least::<f32>(rows.len() * width);
        shrink::<I, E>((call.x, call.weight.inputs()), rows, call.lora, values, width);
    }
    hidden
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
            let first = block.rows.start + at;
            let segment = segments_in(call.lora, first..block.rows.end).next();
            let rows = layer.tile_rows(segment.as_ref().map(|(part, _)| part), first, (at, count));
            let whole = first..first + rows;
            // One adapter's rows: its expand follows in the same registers.
            let mut follow_on = None;
            if let Some((part, segment)) = segment
                && layer.in_registers
                && part.start == first
                && part.end >= whole.end
            {
                panel.effect_of_next(segment, layer.packed, &mut adapter, &mut effect);
                follow_on = effect.follow_on(&layer.expand, &block.hidden.from_row(at));
            }
            let operand = &block.operand;
            let tile = TileCall {
                a: operand.row(at),
                stride: operand.stride,
                panel: weights,
                panel_stride: STEP_BYTES,
                steps: operand.steps,
                half: false,
                accumulate: false,
                out: sums.0.as_mut_ptr(),
                next: follow_on.as_ref(),
            };
            // SAFETY: the kernel was chosen for an instruction set that the machine has; the operand has the rows that
            // it reads and the matrix the panel, both of `steps` steps; a tile has room for the most rows of any kernel.
            // What follows is of the same kernel, over the rows' `A x`.
            unsafe { kernel.function(rows)(&tile) };
            if follow_on.is_some() {
                let own = block.part(whole, first, &mut sums, out);
                // SAFETY: the part is this tile; see `Block::part`.
                unsafe { panel.finish::<I, O>(&own, Some(&effect)) };
                at += rows;
                continue;
            }
            let mut done = first;
            for (part, segment) in segments_in(call.lora, whole.clone()) {
                panel.effect_of_next(segment, layer.packed, &mut adapter, &mut effect);
                let base = block.part(done..part.start, first, &mut sums, out);
                let own = block.part(part.clone(), first, &mut sums, out);
                // SAFETY: the parts are of this tile; see `Block::part`.
                unsafe {
                    panel.finish::<I, O>(&base, None);
                    panel.expand(&layer.expand, &own, &mut effect);
                    panel.finish::<I, O>(&own, Some(&effect));
                }
                done = part.end;
            }
            // SAFETY: as above.
            unsafe { panel.finish::<I, O>(&block.part(done..whole.end, first, &mut sums, out), None) };
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
        sums: &mut SumsTile,
        (out, stride): (*mut O, usize),
    ) -> Rows<O> {
        let (in_tile, in_block) = (part.start - first, part.start - self.rows.start);
        Rows {
            sums: sums.0[in_tile * PANEL..].as_mut_ptr(),
            count: part.len(),
            first: part.start,
            scales: self.operand.scales.wrapping_add(in_block),
            hidden: self.hidden.from_row(in_block),
            out: (out.wrapping_add(in_block * stride), stride),
        }
    }
}
