//! A layer's product over a block of rows, tile by tile, with what follows it.

use std::ops::Range;

use super::Layer;
use super::block::Block;
use super::panel::{Effect, Panel};
use super::row_tiles::{Adapters, RowTile, TILES};
use crate::aligned::LINE;
use crate::element::Element;
use crate::lora::{LoraSegment, segments_in};
use crate::norm::layer_norm;
use crate::packed_matrix::{PANEL, PackedMatrix, STEP_BYTES};
use crate::target::Target;
use crate::tile::{AHEAD, ByteFactors, Scaling, SumsTile, TileCall};

/// The product and what follows it, but for the norm, for all of the block's rows and some panels.
#[inline(always)]
pub(super) fn some_panels_body<I: Target, E: Element>(
    layer: &Layer<'_, E>,
    block: &Block,
    panels: Range<usize>,
) {
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
    let mut sums = SumsTile::default();
    let sums = sums.as_mut_ptr();
    let (mut effect, mut edge) = (Effect::none(), [0.0; PANEL]);
    let mut tiles = TILES.take();
    layer.cut_rows(block, &mut tiles);
    let count = block.rows.len();
    let many = count > kernel.max_rows();
    let _tiles = kernel.begin();
    // What others compute is asked for by them.
    let last = panels.end;
    for index in panels {
        let panel = Panel::new(call, index, kernel, &mut edge);
        let mut adapter: Option<&LoraSegment<'_>> = None;
        let weights = call.weight.panel(index).as_ptr();
        for RowTile { at, rows, adapters, last_expand } in &mut tiles {
            let (at, rows) = (*at, *rows);
            let whole = block.rows.start + at..block.rows.start + at + rows;
            // One adapter's rows: its expand follows in the same registers.
            let follow_on = match adapters {
                Adapters::One(segment) if layer.in_registers => {
                    let segment = &call.lora[*segment];
                    let hidden = block.hidden.at_row(at);
                    if layer.low_rank_alone {
                        panel.follow_on(segment, last_expand, &layer.expand, &hidden)
                    } else {
                        panel.effect_of_next(segment, layer.packed, &mut adapter, &mut effect);
                        effect.follow_on(&layer.expand, &hidden)
                    }
                }
                _ => None,
            };
            let operand = &block.operand;
            let tile = TileCall {
                a: operand.row(at),
                stride: operand.stride,
                panel: weights,
                panel_stride: STEP_BYTES,
                steps: operand.steps,
                columns: PANEL,
                ahead: AHEAD,
                many_rows: many,
                coming: if many && index + 1 < last {
                    share_of_next(call.weight, index, at..at + rows, count)
                } else {
                    &[]
                },
                accumulate: false,
                scaling: match panel.scales {
                    Some((scales, totals)) if kernel.settles => Scaling::Bytes(ByteFactors {
                        of_rows: operand.scales.wrapping_add(at),
                        scales: scales.as_ptr(),
                        totals: totals.as_ptr(),
                    }),
                    _ => Scaling::None,
                },
                out: sums,
                next: follow_on.as_ref(),
            };
            if block.is_shared {
                ask_for_results::<I, O>(out, at..at + rows, index);
            }
            // SAFETY: the kernel was chosen for an instruction set that the machine has; the operand has the rows that
            // it reads, their scales, and the matrix the panel with its scales, of `steps` steps; a tile has room for the most rows of any kernel.
            // What follows is what the kernel adds, over the rows' `A x`.
            unsafe { kernel.function(rows)(&tile) };
            let first = whole.start;
            let of_base = matches!(adapters, Adapters::None);
            let at_once = layer.low_rank_alone || of_base;
            // Packed adapters that bring nothing else add to their rows; what follows is done once for the tile.
            let packed_add = layer.low_rank_alone && !of_base && follow_on.is_none();
            let mut done = first;
            while done < whole.end {
                // The next adapter's rows, or the base's before them.
                let next = if at_once { None } else { segments_in(call.lora, done..whole.end).next() };
                let (part, segment) = match next {
                    Some((part, segment)) if part.start == done => (part, Some(segment)),
                    Some((part, _)) => (done..part.start, None),
                    None => (done..whole.end, None),
                };
                if let Some(segment) = segment {
                    panel.effect_of_next(segment, layer.packed, &mut adapter, &mut effect);
                }
                let own_effect = segment.map(|_| &effect);
                let settled = own_effect.is_some() || packed_add;
                let own = block.part(part.clone(), first, sums, out);
                // SAFETY: the part is this tile, or of it; see `Block::part`.
                unsafe {
                    if settled {
                        panel.settle::<I, O>(&own, own_effect);
                    }
                    match own_effect {
                        None if packed_add => panel.expand_packed(&layer.expand, call.lora, &own),
                        Some(effect) if follow_on.is_none() => panel.expand(&layer.expand, &own, effect),
                        _ => {}
                    }
                    panel.finish::<I, O>(&own, own_effect, settled);
                }
                done = part.end;
            }
        }
    }
    // They point into adapters, which may go.
    tiles.clear();
    TILES.set(tiles);
}

/// Asks for the cache lines of the results of some of the block's rows and a panel, as far as these begin with a line. In memory
/// that is used again, others have computed and read what lies there, and until a line has come from their core no later result
/// is stored.
#[inline(always)]
fn ask_for_results<I: Target, O>((first, stride): (*mut O, usize), rows: Range<usize>, panel: usize) {
    for row in rows {
        let results = first.wrapping_add(row * stride + panel * PANEL).cast::<u8>();
        for at in (0..PANEL * size_of::<O>()).step_by(LINE) {
            I::ask_to_write(results.wrapping_add(at));
        }
    }
}

/// The norm of the block's rows `rows`, counted from its first.
#[inline(always)]
pub(super) fn normalize_rows_body<I: Target, E: Element>(
    layer: &Layer<'_, E>,
    block: &Block,
    rows: Range<usize>,
) {
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

/// The share of panel `index`'s successor that is to be asked for beside the rows `rows` of `count`.
#[inline(always)]
fn share_of_next(weight: &PackedMatrix, index: usize, rows: Range<usize>, count: usize) -> &[u8] {
    let next = weight.panel(index + 1);
    &next[next.len() * rows.start / count..next.len() * rows.end / count]
}
