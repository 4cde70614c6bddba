//! Attention of a few rows to one chunk of keys, and the sum of chunks.

use half::bf16;

use super::panels::{KvPanels, PanelLayout};
use super::softmax::{RowSums, ScoreGrid, softmax};
use crate::aligned::AlignedBuffer;
use crate::element::Element;
use crate::packed_matrix::PANEL;
use crate::target::{LANES, Target};
use crate::tile::{AHEAD, OperandForm, Scaling, TileCall, TileKernel};

/// Rows of queries of one head of keys as the products read them.
#[derive(Default)]
pub(super) struct QueryRows {
    rows: AlignedBuffer,
    stride: usize,
}

impl QueryRows {
    /// Makes place for `count` rows of that layout.
    pub fn reserve(&mut self, count: usize, layout: &PanelLayout, kernel: &TileKernel) {
        self.stride = (layout.key_steps * kernel.operand.step_bytes()).next_multiple_of(64);
        self.rows.at_least::<u8>(count * self.stride);
    }

    /// Lays out one row.
    #[inline(always)]
    pub fn fill<E: Element>(&mut self, row: usize, q: &[E], kernel: &TileKernel) {
        let row = &mut self.rows.values_mut::<u8>()[row * self.stride..][..self.stride];
        if kernel.operand == OperandForm::Bf16 {
            let row = bytemuck::cast_slice_mut::<_, bf16>(row);
            for (to, q) in row.iter_mut().zip(q) {
                *to = bf16::from_bits((q.to_f32().to_bits() >> 16) as u16);
            }
            row[q.len()..].fill(bf16::ZERO);
        } else {
            let row = bytemuck::cast_slice_mut::<_, f32>(row);
            for (to, q) in row.iter_mut().zip(q) {
                *to = q.to_f32();
            }
            row[q.len()..].fill(0.0);
        }
    }

    fn row(&self, row: usize) -> *const u8 {
        self.rows.values::<u8>()[row * self.stride..].as_ptr()
    }
}

/// What a thread computes a chunk in.
#[derive(Default)]
pub(super) struct ChunkScratch {
    scores: AlignedBuffer,
    weights: AlignedBuffer,
    sums: AlignedBuffer,
    tail: AlignedBuffer,
}

/// A few rows and the keys of one chunk.
pub(super) struct ChunkCall<'a> {
    pub cache: &'a KvPanels,
    pub kernel: &'a TileKernel,
    /// Head of keys and values.
    pub head: usize,
    /// The sequence's blocks.
    pub blocks: &'a [u32],
    pub queries: &'a QueryRows,
    /// The first of the rows.
    pub first_row: usize,
    /// By row: the first position that it sees, and one more than the last.
    pub seen: &'a [(usize, usize)],
    pub grid: ScoreGrid,
    /// Factor on the scores with the logarithm's base, `scale * log2(e)`.
    pub factor: f32,
}

/// The sums of weighted values of some rows, each relative to its row's highest score.
#[derive(Clone, Copy)]
pub(super) struct Partial {
    pub rows: RowSums,
    /// The first row's sums, row after row [`PANEL`] apart.
    pub context: *const f32,
    /// Values from a panel of columns to the next.
    pub panel_stride: usize,
}

/// Attention of a few rows to the keys of `call.grid`.
#[inline(always)]
pub(super) fn attend<I: Target>(call: &ChunkCall<'_>, scratch: &mut ChunkScratch) -> Partial {
    let (grid, layout, kernel) = (&call.grid, &call.grid.layout, call.kernel);
    let ChunkScratch { scores, weights, sums, tail } = scratch;
    let scores = scores.at_least::<f32>(grid.len());
    score(call, scores);
    let keys = grid.blocks() * layout.block_keys;
    let weight_bytes = if kernel.operand == OperandForm::Bf16 { 2 } else { 4 };
    let stride = (keys * weight_bytes).next_multiple_of(64);
    let weights = weights.at_least::<u8>(grid.rows * stride).as_mut_ptr();
    let rows = if kernel.operand == OperandForm::Bf16 {
        softmax::<I, bf16>(scores, grid, call.factor, call.seen, (weights.cast(), stride / 2))
    } else {
        softmax::<I, f32>(scores, grid, call.factor, call.seen, (weights.cast(), stride / 4))
    };
    let panel_stride = grid.rows * PANEL;
    let sums = sums.at_least::<f32>(layout.value_panels() * panel_stride);
    weigh(call, (weights, stride), tail, sums);
    Partial { rows, context: sums.as_ptr(), panel_stride }
}

/// The products of queries and keys.
#[inline(always)]
fn score(call: &ChunkCall<'_>, scores: &mut [f32]) {
    let (grid, layout) = (&call.grid, &call.grid.layout);
    let product = call.kernel.function(grid.rows);
    for block in 0..grid.blocks() {
        let [keys, _] = layout.head(call.blocks[grid.first_block + block] as usize, call.head);
        for panel in 0..grid.keys(block).div_ceil(layout.lanes) {
            let words =
                &call.cache.words()[keys + layout.key_panel(panel)..][..layout.key_steps * layout.lanes];
            let tile = TileCall {
                a: call.queries.row(call.first_row),
                stride: call.queries.stride,
                panel: words.as_ptr().cast(),
                panel_stride: 4 * layout.lanes,
                steps: layout.key_steps,
                columns: layout.lanes,
                ahead: AHEAD,
                many_rows: false,
                coming: &[],
                accumulate: false,
                scaling: Scaling::None,
                next: None,
                out: scores[grid.panel(block, panel)..][..grid.rows * PANEL].as_mut_ptr().cast(),
            };
            // SAFETY: the kernel is one of the machine's; queries and keys have been laid out with these steps, and a
            // panel's scores have room for all rows.
            unsafe { product(&tile) };
        }
    }
}

/// The products of weights and values.
#[inline(always)]
fn weigh(
    call: &ChunkCall<'_>,
    (weights, stride): (*const u8, usize),
    tail: &mut AlignedBuffer,
    sums: &mut [f32],
) {
    let (grid, layout) = (&call.grid, &call.grid.layout);
    let product = call.kernel.function(grid.rows);
    let key_bytes = call.kernel.operand.step_bytes() / layout.group;
    for block in 0..grid.blocks() {
        let [_, values] = layout.head(call.blocks[grid.first_block + block] as usize, call.head);
        let (steps, rest) = (grid.keys(block) / layout.group, grid.keys(block) % layout.group);
        // SAFETY: a row of weights has the padded keys of all blocks.
        let weights = unsafe { weights.add(block * layout.block_keys * key_bytes) };
        for panel in 0..layout.value_panels() {
            let width = layout.value_panel_width(panel);
            let words = &call.cache.words()[values + layout.value_panel(panel)..][..(steps + rest) * width];
            let mut tile = TileCall {
                a: weights,
                stride,
                panel: words.as_ptr().cast(),
                panel_stride: 4 * width,
                steps,
                columns: width,
                ahead: AHEAD,
                many_rows: false,
                coming: &[],
                accumulate: block > 0,
                scaling: Scaling::None,
                next: None,
                out: sums[panel * grid.rows * PANEL..][..grid.rows * PANEL].as_mut_ptr().cast(),
            };
            if steps > 0 {
                // SAFETY: as above, with weights for queries and values for keys.
                unsafe { product(&tile) };
                tile.accumulate = true;
            }
            if rest > 0 {
                // Of the last step, the second key may not be one of this sequence's: what lies there is not read, for it
                // may be no number, and then even a weight of 0 would not keep it out.
                let first_key = tail.at_least::<u32>(PANEL);
                for (to, word) in first_key.iter_mut().zip(&words[steps * width..]) {
                    *to = word & 0xffff;
                }
                // SAFETY: one step behind the others; the weight of the second key is 0.
                unsafe {
                    tile.a = weights.add(steps * layout.group * key_bytes);
                    (tile.panel, tile.steps) = (first_key.as_ptr().cast(), 1);
                    product(&tile);
                }
            }
        }
    }
}

/// Sums over chunks of some rows: by row the highest score, the sum of weights, and from the sixteenth value on the sums of
/// weighted values.
#[derive(Default)]
pub(super) struct RowStates {
    values: AlignedBuffer,
    rows: usize,
    columns: usize,
}

impl RowStates {
    /// `rows` rows that have seen nothing.
    pub fn reset(&mut self, rows: usize, columns: usize) {
        (self.rows, self.columns) = (rows, columns);
        let stride = self.stride();
        self.values.at_least::<f32>(rows * stride);
        for row in self.values_mut().chunks_exact_mut(stride) {
            (row[0], row[1]) = (f32::NEG_INFINITY, 0.0);
        }
    }

    /// Values of a row.
    pub fn stride(&self) -> usize {
        LANES + self.columns
    }

    /// All rows' states.
    pub fn values(&self) -> &[f32] {
        &self.values.values::<f32>()[..self.rows * self.stride()]
    }

    /// All rows' states, to be written.
    pub fn values_mut(&mut self) -> &mut [f32] {
        let len = self.rows * self.stride();
        &mut self.values.values_mut::<f32>()[..len]
    }

    /// Adds what `count` rows from `first` on have seen in one more chunk.
    #[inline(always)]
    pub fn add<I: Target>(&mut self, first: usize, count: usize, partial: &Partial, factor: f32) {
        let stride = self.stride();
        let values = self.values_mut()[first * stride..][..count * stride].as_mut_ptr();
        for row in 0..count {
            // SAFETY: the row's state has this length, and the partial sums have the same columns in panels.
            unsafe {
                let from = partial.context.add(row * PANEL);
                let (highest, total) = (partial.rows.highest[row], partial.rows.total[row]);
                add_row::<I>(
                    values.add(row * stride),
                    self.columns,
                    (highest, total),
                    (from, partial.panel_stride),
                    factor,
                );
            }
        }
    }

    /// The row's weighted mean of values.
    ///
    /// # Safety
    /// There is room for `width` values, at most as many as there are columns.
    #[inline(always)]
    pub unsafe fn finish<I: Target, E: Element>(&self, row: usize, width: usize, to: *mut E) {
        let state = &self.values()[row * self.stride()..][..self.stride()];
        let inverse = I::splat(1.0 / state[1]);
        for column in (0..width).step_by(LANES) {
            // SAFETY: whole sixteens of columns lie there, and the caller promises the room.
            unsafe {
                let v = I::mul(I::load(state[LANES + column..][..LANES].as_ptr()), inverse);
                if column + LANES <= width {
                    E::store::<I>(v, to.add(column));
                } else {
                    crate::element::store_part::<I, E>(v, to.add(column), width - column);
                }
            }
        }
    }
}

/// Adds what a row has seen in one chunk to its state: both brought to the higher of the two highest scores.
///
/// # Safety
/// A state of [`RowStates`] lies at `state`, and `columns` sums in panels `panel_stride` apart at `from`.
#[inline(always)]
pub(super) unsafe fn add_row<I: Target>(
    state: *mut f32,
    columns: usize,
    (highest, total): (f32, f32),
    (from, panel_stride): (*const f32, usize),
    factor: f32,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let (before, context) = (*state, state.add(LANES));
        if highest == f32::NEG_INFINITY {
            return;
        }
        let first = before == f32::NEG_INFINITY;
        let most = before.max(highest);
        let old = if first { 0.0 } else { ((before - most) * factor).exp2() };
        let new = if first { 1.0 } else { ((highest - most) * factor).exp2() };
        *state = most;
        *state.add(1) = if first { total } else { *state.add(1) * old + total * new };
        let (old, new) = (I::splat(old), I::splat(new));
        for column in (0..columns).step_by(LANES) {
            let sum = I::load(from.add(column / PANEL * panel_stride + column % PANEL));
            let at = context.add(column);
            I::store(if first { sum } else { I::fma(I::load(at), old, I::mul(sum, new)) }, at);
        }
    }
}
