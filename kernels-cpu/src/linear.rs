//! A linear layer with all that follows it, in order: gain, LoRA, bias, activation, residual, norm.

mod block;
mod finish;
mod operand;
mod panel;
mod panel_shares;
mod product;
mod row_tiles;
mod shrink;
mod sums;

use std::ops::Range;

use crate::element::Element;
use crate::epilogue::Activation;
use crate::isa::Isa;
use crate::lora::{LoraSegment, LoraSpan};
use crate::norm::NormParams;
use crate::packed_matrix::{PackedMatrix, WeightFormat};
use crate::shared_out::SharedOut;
use crate::target::{Target, dispatch};
use crate::team::{self, PARTS, Phase};
use crate::tile::{OperandForm, TileKernel};
use block::{Block, SCRATCH, Scratch, place_block, prepare_rows_body};
use panel_shares::PanelShares;
use product::{normalize_rows_body, some_panels_body};

/// Panels rather than rows are split where a thread would have fewer rows than this.
const FEW_ROWS: usize = 64;
/// Fewest rows of a block, where there are several for each thread.
const FEWEST_ROWS: usize = 28;
/// Most rows of one task that readies operands, or normalises: whole tiles.
const MOST_ROWS: usize = 32;
/// Tasks a thread that ready the operands of a few rows, or normalise them.
const SHARES: usize = 2;
/// Fewest rows of a task that reads an adapter which all rows share.
const SHARED_ROWS: usize = 8;
/// Fewest rows of a task that converts or normalises rows and reads nothing else.
const FEWEST_ALONE: usize = 4;

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
    let is_packed = |s: &LoraSegment<'_>| s.packed.map_or(s.ranks() == 0, |p| p.format() == format);
    let packed = format != WeightFormat::F32 && call.lora.iter().all(is_packed);
    // Rows of an adapter begin and end within tiles, whose sums only registers add to.
    let registers = if isa == Isa::Amx { Isa::Avx512 } else { isa };
    let kernel = TileKernel::choose(isa, format);
    let expand = match format {
        WeightFormat::Int8InEights if packed => TileKernel::int16(registers),
        _ if packed => TileKernel::choose(registers, WeightFormat::Bf16),
        _ => TileKernel::choose(registers, WeightFormat::F32),
    };
    let vectors = |span: &LoraSpan<'_>| span.gain.is_some() || span.bias.is_some();
    let layer = Layer {
        call,
        kernel,
        packed,
        low_rank_alone: packed && !call.lora.iter().flat_map(|s| &s.spans).any(vectors),
        expand,
        in_registers: !kernel.tiles
            && (kernel.operand == expand.operand || kernel.settles && expand.operand == OperandForm::Bf16),
        out: SharedOut(out.as_mut_ptr()),
    };
    let threads = team::threads();
    if threads > 1 && rows < FEW_ROWS * threads {
        return by_panels(isa, &layer, rows, threads);
    }
    let most = layer.kernel.block_rows();
    // As many blocks for each thread; with registers, rows of a block are shared out evenly among its tiles.
    let parts = (rows / (threads * FEWEST_ROWS)).clamp(1, PARTS).max(rows.div_ceil(threads * most));
    let share =
        if threads == 1 { rows.div_ceil(rows.div_ceil(most)) } else { rows.div_ceil(threads * parts) };
    let block = share.next_multiple_of(layer.kernel.rows_at_once);
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
    /// Whether they are, and bring nothing else: then what follows `B h` is the same for all rows.
    low_rank_alone: bool,
    /// For `B h`.
    expand: TileKernel,
    /// Whether the product's kernel adds that in registers, to sums that need nothing before.
    in_registers: bool,
    out: SharedOut<E>,
}

dispatch! {
    fn whole_rows<E: Element>(layer: &Layer<'_, E>, rows: Range<usize>, scratch: &mut Scratch) = whole_rows_body
}
dispatch! {
    fn prepare_rows<E: Element>(layer: &Layer<'_, E>, block: &Block, rows: Range<usize>) = prepare_rows_body
}
dispatch! {
    fn some_panels<E: Element>(layer: &Layer<'_, E>, block: &Block, panels: Range<usize>) = some_panels_body
}
dispatch! {
    fn normalize_rows<E: Element>(layer: &Layer<'_, E>, block: &Block, rows: Range<usize>) = normalize_rows_body
}

/// A few rows: one block, its panels split among the threads, and its rows before and after that.
fn by_panels<E: Element>(isa: Isa, layer: &Layer<'_, E>, rows: usize, threads: usize) {
    let mut scratch = SCRATCH.take();
    let mut block = Block { is_shared: true, ..Block::default() };
    place_block(layer, 0..rows, &mut scratch, &mut block);
    // An adapter's `A` comes from memory for a row or two: no thread should wait for the others'. One that all rows share is read
    // once a task.
    let fewest = match block.has_hidden() {
        true if layer.call.lora.len() > 1 => 1,
        true => SHARED_ROWS,
        false => FEWEST_ALONE,
    };
    let some_of_them = |fewest| rows.div_ceil(threads * SHARES).clamp(fewest, MOST_ROWS);
    let prepared = if layer.kernel.tiles { MOST_ROWS } else { some_of_them(fewest) };
    let normalized = some_of_them(FEWEST_ALONE);
    let panels = PanelShares::new(layer.call.weight.panel_count(), threads);
    let rows_of = |i: usize, each: usize| i * each..rows.min((i + 1) * each);
    team::in_phases(&[
        Phase {
            tasks: if block.is_prepared() { 0 } else { rows.div_ceil(prepared) },
            run: &|i| prepare_rows(isa, layer, &block, rows_of(i, prepared)),
        },
        Phase { tasks: panels.count(), run: &|i| some_panels(isa, layer, &block, panels.panels_of(i)) },
        Phase {
            tasks: if layer.call.norm.is_some() { rows.div_ceil(normalized) } else { 0 },
            run: &|i| normalize_rows(isa, layer, &block, rows_of(i, normalized)),
        },
    ]);
    SCRATCH.set(scratch);
}

// No closure below: a closure would be compiled for the baseline.

#[inline(always)]
fn whole_rows_body<I: Target, E: Element>(layer: &Layer<'_, E>, rows: Range<usize>, scratch: &mut Scratch) {
    let mut block = Block::default();
    place_block(layer, rows, scratch, &mut block);
    prepare_rows_body::<I, E>(layer, &block, 0..block.rows.len());
    some_panels_body::<I, E>(layer, &block, 0..layer.call.weight.panel_count());
    normalize_rows_body::<I, E>(layer, &block, 0..block.rows.len());
}
