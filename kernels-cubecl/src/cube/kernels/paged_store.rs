//! Writing keys and values into their blocks.

use cubecl::prelude::*;

use super::lookup::group_number;
use super::row_sum::row_sums;

/// Units of a workgroup that stores one head of one row.
pub(crate) const STORE_UNITS: usize = 64;
/// Columns of the widest head that it has room for.
pub(crate) const STORE_ROOM: usize = 256;
/// Units of a workgroup that copies blocks.
pub(crate) const COPY_UNITS: usize = 256;

/// What [`store_kv`] does to its heads.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct StoreShape {
    /// Rows.
    pub(crate) rows: u32,
    /// Heads of queries.
    pub(crate) query: u32,
    /// Heads of keys, and of values.
    pub(crate) kv: u32,
    /// Columns of a head.
    pub(crate) width: u32,
    /// Columns that are turned with as many behind them.
    pub(crate) half: u32,
    /// Added to the mean square of a head of queries.
    pub(crate) q_epsilon: f32,
    /// Likewise of keys.
    pub(crate) k_epsilon: f32,
}

/// Norms and turns one head of queries or keys, in f32, and writes it where it belongs; a head of values as it is.
///
/// `qkv` is `[T, (query + 2 kv) width]`, `index` begins with the rows' positions and slots, `[T]` each, `cos` and `sin` are
/// `[positions, half]`, `cache` `[slots, 2 kv width]`, `q` `[T, query width]`. Grid: x (and z) rows, y heads.
#[cube(launch)]
pub(crate) fn store_kv<F: Float>(
    qkv: &[F],
    index: &[i32],
    cos: &[f32],
    sin: &[f32],
    q_gamma: &[F],
    k_gamma: &[F],
    cache: &mut [F],
    q: &mut [F],
    shape: &StoreShape,
    #[comptime] norms: bool,
    #[define(F)] _dtype: ElemType,
) {
    let width = shape.width as usize;
    let half = shape.half as usize;
    let query = shape.query as usize;
    let kv = shape.kv as usize;
    let rows = shape.rows as usize;
    let group = group_number();
    let live = group < rows;
    let row = select(live, group, 0);
    let part = CUBE_POS_Y as usize;
    let from = (row * (query + 2 * kv) + part) * width;
    let is_query = part < query;
    let is_turned = part < query + kv;

    let mut head = Shared::<[f32]>::new_slice(STORE_ROOM);
    let mut squares = 0.0f32;
    let mut column = UNIT_POS as usize;
    while column < width {
        let value = f32::cast_from(qkv[from + column]);
        head[column] = value;
        squares += value * value;
        column += STORE_UNITS;
    }
    if comptime!(norms) {
        let mut scratch = Shared::<[f32]>::new_slice(STORE_UNITS);
        let mut parts = Array::<f32>::new(1usize);
        parts[0] = squares;
        let sums = row_sums(&parts, &mut scratch, 1usize, STORE_UNITS);
        let epsilon = select(is_query, shape.q_epsilon, shape.k_epsilon);
        let scale = 1.0f32 / f32::sqrt(sums[0] / f32::cast_from(shape.width) + epsilon);
        let mut column = UNIT_POS as usize;
        while column < width && is_turned {
            let gamma = select(is_query, f32::cast_from(q_gamma[column]), f32::cast_from(k_gamma[column]));
            head[column] = head[column] * scale * gamma;
            column += STORE_UNITS;
        }
    }
    sync_cube();

    let angles = index[row] as usize * half;
    let slot = index[rows + row] as usize;
    let mut column = UNIT_POS as usize;
    while column < width {
        let mut value = head[column];
        if is_turned && column < 2 * half {
            let second = column >= half;
            let angle = angles + select(second, column - half, column);
            let other = head[select(second, column - half, column + half)];
            let across = other * sin[angle];
            value = value * cos[angle] + select(second, across, 0.0f32 - across);
        }
        if live {
            if is_query {
                q[(row * query + part) * width + column] = F::cast_from(value);
            } else {
                cache[(slot * 2 * kv + part - query) * width + column] = F::cast_from(value);
            }
        }
        column += STORE_UNITS;
    }
}

/// Copies blocks within the cache: `copies` has `pairs` of them, from and to, and a block is `vectors` long. Grid: x (and
/// z) pairs, y parts of a block, `stride` vectors in all.
#[cube(launch)]
pub(crate) fn copy_blocks<F: Float, N: Size>(
    cache: &mut [Vector<F, N>],
    copies: &[i32],
    pairs: u32,
    vectors: u32,
    stride: u32,
    #[define(F)] _dtype: ElemType,
    #[define(N)] _lanes: usize,
) {
    let pair = group_number();
    if pair < pairs as usize {
        let from = copies[2 * pair] as usize * vectors as usize;
        let to = copies[2 * pair + 1] as usize * vectors as usize;
        let mut at = CUBE_POS_Y as usize * COPY_UNITS + UNIT_POS as usize;
        while at < vectors as usize {
            cache[to + at] = cache[from + at];
            at += stride as usize;
        }
    }
}
