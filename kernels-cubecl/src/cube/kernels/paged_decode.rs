//! Causal attention of single rows to the keys of their sequence: fixed chunks of keys, each with a softmax of its own, then
//! the sum of chunks (the split along the context of Flash-Decoding, on the arithmetic of arXiv 1805.02867).

use cubecl::prelude::*;

use super::lookup::group_number;
use super::paged_lookup::{PagedShape, first_seen, slot_of};
use crate::paged_index::{CHUNK_FIELDS, CHUNK_KEYS, DECODE_FIELDS};

/// Units of a workgroup that takes a chunk of keys: two keys each.
pub(crate) const CHUNK_UNITS: usize = 128;
/// Units of a workgroup that adds chunks up.
pub(crate) const SUM_UNITS: usize = 64;

/// Compile-time shape of [`decode_chunk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DecodeShape {
    /// Heads of queries that a workgroup takes at once: 2, 4 or 8, all of one head of keys.
    pub(crate) rows: usize,
    /// Room for one head's columns; heads may be narrower.
    pub(crate) head_room: usize,
}

/// The weighted values of one chunk of keys for some heads of queries that share a head of keys: to `context`, `[chunks, query,
/// width]`, relative to the highest score, which goes to `stats`, `[chunks, query, 2]`, with the sum of weights.
///
/// `q` is `[T, query width]`, `cache` `[slots, 2 kv width]`; from `chunks_at` on, `index` has `chunk_count` chunks as
/// `paged_index.rs` says. Grid: x (and z) chunks, y heads of keys by `parts` groups of heads of queries.
#[cube(launch)]
pub(crate) fn decode_chunk<F: Float, N: Size>(
    q: &[F],
    cache: &[Vector<F, N>],
    index: &[i32],
    context: &mut [f32],
    stats: &mut [f32],
    heads: &PagedShape,
    chunks_at: u32,
    chunk_count: u32,
    parts: u32,
    #[comptime] shape: DecodeShape,
    #[define(F)] _dtype: ElemType,
    #[define(N)] _lanes: usize,
) {
    let rows = comptime!(shape.rows);
    let room = comptime!(shape.head_room);
    let lanes = N::value();
    // Units side by side over a row of values, and as many groups of them as there are.
    let across = comptime!(CHUNK_UNITS.min(room / lanes));
    let each = comptime!((room / lanes).div_ceil(across));
    let groups = comptime!(CHUNK_UNITS / across);
    // Units that share a row's softmax.
    let team = comptime!(CHUNK_UNITS / rows);

    let unit = UNIT_POS as usize;
    let width = heads.width as usize;
    let vectors = width / lanes;
    let kv = heads.kv as usize;
    let sharing = (heads.query / heads.kv) as usize;
    let head = CUBE_POS_Y as usize / parts as usize;
    let first_query = CUBE_POS_Y as usize % parts as usize * rows;
    let queries = min(sharing - first_query, rows);
    let group = group_number();
    let inside = group < chunk_count as usize;
    let chunk = select(inside, group, 0);
    let at = chunks_at as usize + chunk * CHUNK_FIELDS;
    let row = index[at] as usize;
    let position = index[at + 1] as usize;
    let table = index[at + 2] as usize;
    let first = index[at + 3] as usize * CHUNK_KEYS;
    // Of this chunk's keys, those that the row sees.
    let seen_from = max(first_seen(heads, position), first) - first;
    let seen_to = select(inside, min(position + 1 - first, CHUNK_KEYS), 0);
    let first_head = row * heads.query as usize + head * sharing + first_query;

    let mut qs = Shared::<[f32]>::new_slice(comptime!(rows * room));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(rows * CHUNK_KEYS));
    let mut slots = Shared::<[u32]>::new_slice(CHUNK_KEYS);
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(CHUNK_UNITS * lanes));

    let mut i = unit;
    while i < comptime!(rows * room) {
        let mut value = 0.0f32;
        if i / room < queries && i % room < width {
            value = f32::cast_from(q[(first_head + i / room) * width + i % room]) * heads.scale;
        }
        qs[i] = value;
        i += CHUNK_UNITS;
    }
    sync_cube();

    // A unit a key.
    #[unroll]
    for pass in 0..comptime!(CHUNK_KEYS / CHUNK_UNITS) {
        let key = unit + comptime!(pass * CHUNK_UNITS);
        let mut sums = Array::<f32>::new(rows);
        #[unroll]
        for r in 0..rows {
            sums[r] = 0.0f32;
        }
        if key >= seen_from && key < seen_to {
            let slot = slot_of(index, table, first + key, heads.block_size as usize);
            slots[key] = slot as u32;
            let at = (slot * 2 * kv + head) * vectors;
            for vector in 0..vectors {
                let value = Vector::<f32, N>::cast_from(cache[at + vector]);
                #[unroll]
                for r in 0..rows {
                    #[unroll]
                    for lane in 0..lanes {
                        sums[r] += qs[r * room + vector * lanes + lane] * value.extract(lane);
                    }
                }
            }
        }
        #[unroll]
        for r in 0..rows {
            weights[r * CHUNK_KEYS + key] = sums[r];
        }
    }
    sync_cube();

    // A row's units take its keys in turns.
    let own = unit / team;
    let mut most = f32::new(-3.0e38);
    let mut key = unit % team;
    while key < CHUNK_KEYS {
        if key >= seen_from && key < seen_to {
            most = max(most, weights[own * CHUNK_KEYS + key]);
        }
        key += team;
    }
    scratch[unit] = most;
    sync_cube();
    for other in 0..team {
        most = max(most, scratch[own * team + other]);
    }
    sync_cube();
    let mut sum = 0.0f32;
    let mut key = unit % team;
    while key < CHUNK_KEYS {
        let mut weight = 0.0f32;
        if key >= seen_from && key < seen_to {
            weight = f32::exp(weights[own * CHUNK_KEYS + key] - most);
        }
        weights[own * CHUNK_KEYS + key] = weight;
        sum += weight;
        key += team;
    }
    scratch[unit] = sum;
    sync_cube();
    let first_out = chunk * heads.query as usize + head * sharing + first_query;
    if unit == own * team && own < queries && inside {
        let mut total = 0.0f32;
        for other in 0..team {
            total += scratch[own * team + other];
        }
        stats[(first_out + own) * 2] = most;
        stats[(first_out + own) * 2 + 1] = total;
    }
    sync_cube();

    // A unit a vector of columns, every group of units some of the keys.
    let mut sums = Array::<Vector<f32, N>>::new(comptime!(rows * each));
    #[unroll]
    for i in 0..comptime!(rows * each) {
        sums[i] = Vector::<f32, N>::new(0.0f32);
    }
    let mut key = seen_from + unit / across;
    while key < seen_to {
        let at = (slots[key] as usize * 2 * kv + kv + head) * vectors;
        #[unroll]
        for i in 0..each {
            let vector = unit % across + i * across;
            if vector < vectors {
                let value = Vector::<f32, N>::cast_from(cache[at + vector]);
                #[unroll]
                for r in 0..rows {
                    sums[r * each + i] += Vector::<f32, N>::new(weights[r * CHUNK_KEYS + key]) * value;
                }
            }
        }
        key += groups;
    }
    #[unroll]
    for r in 0..rows {
        #[unroll]
        for i in 0..each {
            #[unroll]
            for lane in 0..lanes {
                scratch[unit * lanes + lane] = sums[r * each + i].extract(lane);
            }
            sync_cube();
            let vector = unit % across + i * across;
            if unit < across && vector < vectors && r < queries && inside {
                #[unroll]
                for lane in 0..lanes {
                    let mut total = 0.0f32;
                    for other in 0..groups {
                        total += scratch[(other * across + unit) * lanes + lane];
                    }
                    context[(first_out + r) * width + vector * lanes + lane] = total;
                }
            }
            sync_cube();
        }
    }
}

/// The sum of the chunks that a row sees, to `out`, `[T, query width]`; `context` and `stats` are what [`decode_chunk`]
/// wrote. From `decodes_at` on, `index` has `decode_count` rows as `paged_index.rs` says. Grid: x (and z) rows, y heads of
/// queries.
#[cube(launch)]
pub(crate) fn decode_sum<F: Float>(
    context: &[f32],
    stats: &[f32],
    index: &[i32],
    out: &mut [F],
    heads: &PagedShape,
    decodes_at: u32,
    decode_count: u32,
    #[define(F)] _dtype: ElemType,
) {
    let width = heads.width as usize;
    let query = heads.query as usize;
    let group = group_number();
    if group < decode_count as usize {
        let at = decodes_at as usize + group * DECODE_FIELDS;
        let row = index[at] as usize;
        let position = index[at + 1] as usize;
        let first = index[at + 2] as usize;
        let from = first + first_seen(heads, position) / CHUNK_KEYS;
        let to = first + position / CHUNK_KEYS + 1;
        let head = CUBE_POS_Y as usize;
        let mut most = f32::new(-3.0e38);
        for chunk in from..to {
            most = max(most, stats[(chunk * query + head) * 2]);
        }
        let mut total = 0.0f32;
        for chunk in from..to {
            let at = (chunk * query + head) * 2;
            total += stats[at + 1] * f32::exp(stats[at] - most);
        }
        let mut column = UNIT_POS as usize;
        while column < width {
            let mut sum = 0.0f32;
            for chunk in from..to {
                let at = chunk * query + head;
                sum += context[at * width + column] * f32::exp(stats[at * 2] - most);
            }
            out[(row * query + head) * width + column] = F::cast_from(sum / total);
            column += SUM_UNITS;
        }
    }
}
