//! `Y = X W^T` over a [`PackedMatrix`], in registers of one panel's columns by a few rows.
//!
//! The sum over the inputs runs from the first to the last for every row, whatever the number of rows: rows are
//! independent of their batch mates to the bit.

use std::ops::Range;

use crate::isa::Target;
use crate::lanes::{LANES, at, at_mut};
use crate::packed_matrix::{PANEL, PackedMatrix};

/// Inputs per pass: a panel's slice (64 KiB) stays in the second-level cache while the rows go by.
const INPUT_BLOCK: usize = 512;

/// Rows of `x`, `[rows, stride]`, of which the first `inputs` values count.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub count: usize,
}

/// Writes `out[:, panels]`, `[rows, out_stride]`, columns relative to the first panel. Padded columns are not written.
#[inline(always)]
pub(crate) fn gemm<I: Target>(
    x: Rows<'_>,
    weight: &PackedMatrix,
    panels: Range<usize>,
    out: &mut [f32],
    out_stride: usize,
) {
    if x.count == 0 || panels.is_empty() {
        return;
    }
    let inputs = weight.inputs();
    let first_column = panels.start * PANEL;
    let last_width = weight.outputs().min(panels.end * PANEL) - first_column;
    assert!(x.values.len() >= (x.count - 1) * x.stride + inputs, "x is shorter than its rows");
    assert!(out.len() >= (x.count - 1) * out_stride + last_width, "out is shorter than its rows");
    if inputs == 0 {
        for row in out.chunks_mut(out_stride).take(x.count) {
            row[..last_width].fill(0.0);
        }
        return;
    }
    for block in (0..inputs).step_by(INPUT_BLOCK) {
        let depth = INPUT_BLOCK.min(inputs - block);
        for index in panels.clone() {
            let panel = &weight.panel(index)[block * PANEL..][..depth * PANEL];
            let column = index * PANEL - first_column;
            let width = PANEL.min(weight.outputs() - index * PANEL);
            let mut row = 0;
            let tile = |rows: usize, row: usize| Tile {
                x: &x.values[row * x.stride + block..],
                x_stride: x.stride,
                depth,
                out_at: row * out_stride + column,
                out_stride,
                width,
                add: block > 0,
                rows,
            };
            if I::WIDE {
                while row + 12 <= x.count {
                    tile_kernel::<I, 12, 2>(tile(12, row), panel, 0, out);
                    row += 12;
                }
            }
            while row + 4 <= x.count {
                columns::<I, 4>(tile(4, row), panel, out);
                row += 4;
            }
            while row < x.count {
                columns::<I, 1>(tile(1, row), panel, out);
                row += 1;
            }
        }
    }
}

/// One register tile's work.
#[derive(Clone, Copy)]
struct Tile<'a> {
    x: &'a [f32],
    x_stride: usize,
    depth: usize,
    out_at: usize,
    out_stride: usize,
    width: usize,
    add: bool,
    rows: usize,
}

/// The whole panel's width: at once with 32 registers, in two halves with 16.
#[inline(always)]
fn columns<I: Target, const R: usize>(tile: Tile<'_>, panel: &[f32], out: &mut [f32]) {
    if I::WIDE {
        tile_kernel::<I, R, 2>(tile, panel, 0, out);
    } else {
        tile_kernel::<I, R, 1>(tile, panel, 0, out);
        tile_kernel::<I, R, 1>(tile, panel, LANES, out);
    }
}

/// `R` rows by `C` times sixteen columns, from column `from` of the panel.
#[inline(always)]
fn tile_kernel<I: Target, const R: usize, const C: usize>(
    tile: Tile<'_>,
    panel: &[f32],
    from: usize,
    out: &mut [f32],
) {
    let width = tile.width.saturating_sub(from).min(C * LANES);
    if width == 0 {
        return;
    }
    assert!(tile.rows == R && from + C * LANES <= PANEL && panel.len() == tile.depth * PANEL);
    assert!(tile.x.len() >= (R - 1) * tile.x_stride + tile.depth);
    let mut acc = [[I::splat(0.0); C]; R];
    let mut edge = [0f32; PANEL];
    if tile.add {
        for (r, acc) in acc.iter_mut().enumerate() {
            let row = &out[tile.out_at + r * tile.out_stride + from..];
            edge[..width].copy_from_slice(&row[..width]);
            for (c, acc) in acc.iter_mut().enumerate() {
                *acc = I::load(at(&edge, c * LANES));
            }
        }
    }
    for (k, row) in panel.chunks_exact(PANEL).enumerate() {
        let mut weights = [I::splat(0.0); C];
        for (c, weights) in weights.iter_mut().enumerate() {
            *weights = I::load(at(row, from + c * LANES));
        }
        for (r, acc) in acc.iter_mut().enumerate() {
            // SAFETY: k < depth and r < R, and x holds at least (R - 1) * x_stride + depth values (asserted).
            let value = I::splat(unsafe { *tile.x.get_unchecked(r * tile.x_stride + k) });
            for c in 0..C {
                acc[c] = I::fma_lanes(value, weights[c], acc[c]);
            }
        }
    }
    for (r, acc) in acc.iter().enumerate() {
        for (c, acc) in acc.iter().enumerate() {
            I::store(*acc, at_mut(&mut edge, c * LANES));
        }
        let row = &mut out[tile.out_at + r * tile.out_stride + from..];
        row[..width].copy_from_slice(&edge[..width]);
    }
}
