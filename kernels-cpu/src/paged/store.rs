//! What stands between a fused projection and attention: norms of heads, rotary positions, and remembering keys and values.

use std::ops::Range;

use super::batch::{KvHeads, PagedBatch};
use super::panels::{KvPanels, PanelLayout};
use crate::element::{Element, load_part, store_part};
use crate::isa::Isa;
use crate::packed_matrix::{PANEL, WeightFormat};
use crate::shared_out::SharedOut;
use crate::target::{LANES, Target, dispatch};
use crate::team::{self, PARTS};

/// A root mean square norm of single heads (arXiv 1910.07467).
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm<'a> {
    /// Weight, `[width]`.
    pub gamma: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
}

/// The angles of rotary positions (RoFormer, arXiv 2104.09864).
#[derive(Clone, Copy, Debug)]
pub struct RotaryTable<'a> {
    /// Cosines, `[positions, half]`.
    pub cos: &'a [f32],
    /// Sines, likewise.
    pub sin: &'a [f32],
    /// Columns of a head that are turned with as many others: the first `half` columns, with the `half` behind them.
    pub half: usize,
}

/// One storing of a batch's keys and values.
#[derive(Clone, Copy, Debug)]
pub struct StoreCall<'a, E> {
    /// Queries, keys and values side by side, `[T, (query + 2 kv) * width]`.
    pub qkv: &'a [E],
    /// Heads.
    pub heads: KvHeads,
    /// Where the rows belong.
    pub batch: &'a PagedBatch,
    /// How queries and keys are turned.
    pub rotary: RotaryTable<'a>,
    /// Norms of queries and of keys before that.
    pub norms: [Option<HeadNorm<'a>>; 2],
}

/// Norms and turns queries and keys in f32, writes keys and values into the rows' slots of `cache` and the queries to `q`, `[T,
/// query * width]`, on the threads of the team.
///
/// # Panics
/// When a length does not fit, or the cache is of another shape or dtype.
pub fn store_kv<E: Element>(isa: Isa, call: StoreCall<'_, E>, cache: &mut KvPanels, q: &mut [E]) {
    isa.require();
    let StoreCall { qkv, heads, batch, rotary, norms } = call;
    let rows = batch.rows();
    check_cache::<E>(cache, heads, batch);
    assert_eq!(qkv.len(), rows * heads.qkv_columns(), "qkv is not [{rows}, {}]", heads.qkv_columns());
    assert_eq!(q.len(), rows * heads.query * heads.width, "q is not [{rows}, {}]", heads.query * heads.width);
    assert!(2 * rotary.half <= heads.width, "{} columns of {} are turned", 2 * rotary.half, heads.width);
    let positions = batch.positions().iter().max().map_or(0, |most| *most as usize + 1);
    let angles = rotary.cos.len().min(rotary.sin.len());
    assert!(angles >= positions * rotary.half, "{angles} angles for {positions} positions");
    for norm in norms.iter().flatten() {
        assert_eq!(norm.gamma.len(), heads.width, "a norm of another width");
    }
    if rows == 0 || heads.width == 0 {
        return;
    }
    let layout = cache.layout();
    let words = SharedOut(cache.words_mut().as_mut_ptr());
    let job = Job { call, layout, words, q: SharedOut(q.as_mut_ptr()) };
    let parts = if team::threads() == 1 { 1 } else { (team::threads() * PARTS).min(rows) };
    team::for_each(parts, |part| {
        store_rows(isa, &job, rows * part / parts..rows * (part + 1) / parts);
    });
}

/// Refuses a cache of another shape or dtype than a call's: what makes the kernels' accesses sound.
pub(super) fn check_cache<E: Element>(cache: &KvPanels, heads: KvHeads, batch: &PagedBatch) {
    let shape = cache.shape();
    assert!(cache.holds::<E>(), "the cache has another dtype");
    assert_eq!((heads.kv, heads.width), (shape.heads.kv, shape.heads.width), "the cache is of other heads");
    assert_eq!(batch.block_size(), shape.block_size, "blocks of another size");
    assert!(batch.blocks() <= shape.blocks, "{} blocks of {}", batch.blocks(), shape.blocks);
}

/// A call with what it writes to.
struct Job<'a, E> {
    call: StoreCall<'a, E>,
    layout: PanelLayout,
    words: SharedOut<u32>,
    q: SharedOut<E>,
}

dispatch! {
    /// The rows `rows` of the batch: of the cache, what is written lies in their slots, of which no two rows have the same.
    fn store_rows<E: Element>(job: &Job<'_, E>, rows: Range<usize>) = store_rows_body
}

// No closure below: a closure would be compiled for the baseline.

#[inline(always)]
fn store_rows_body<I: Target, E: Element>(job: &Job<'_, E>, rows: Range<usize>) {
    let StoreCall { qkv, heads, batch, rotary, norms } = job.call;
    let KvHeads { query, kv, width } = heads;
    let mut head = vec![0f32; width.next_multiple_of(LANES)];
    // Head by head, because the rows' slots are neighbours there.
    for part in 0..query + 2 * kv {
        for row in rows.clone() {
            let x = &qkv[row * heads.qkv_columns() + part * width..][..width];
            let (position, slot) = (batch.positions()[row] as usize, batch.slots()[row] as usize);
            let place = (slot / batch.block_size(), slot % batch.block_size());
            if part >= query + kv {
                // SAFETY: the cache is of this shape and dtype, and the slot is this row's alone.
                unsafe { write_value(job, x, part - query - kv, place) };
                continue;
            }
            let angles = position * rotary.half..(position + 1) * rotary.half;
            let angles = (&rotary.cos[angles.clone()], &rotary.sin[angles]);
            turn::<I, E>(x, norms[(part >= query) as usize], angles, &mut head);
            if part < query {
                for column in (0..width).step_by(LANES) {
                    // SAFETY: `head` has whole sixteens, and `q` these columns in this row.
                    unsafe {
                        let v = I::load(head.as_ptr().add(column));
                        let to = job.q.0.add((row * query + part) * width + column);
                        if column + LANES <= width {
                            E::store::<I>(v, to);
                        } else {
                            store_part::<I, E>(v, to, width - column);
                        }
                    }
                }
            } else {
                // SAFETY: as for values.
                unsafe { write_key(job, &head[..width], part - query, place) };
            }
        }
    }
}

/// Norms and turns one head's columns, `x`, into `out`, which has place for whole sixteens.
#[inline(always)]
fn turn<I: Target, E: Element>(
    x: &[E],
    norm: Option<HeadNorm<'_>>,
    (cos, sin): (&[f32], &[f32]),
    out: &mut [f32],
) {
    let width = x.len();
    assert!(out.len() >= width.next_multiple_of(LANES) && 2 * cos.len() <= width && sin.len() == cos.len());
    let mut squares = I::splat(0.0);
    for column in (0..width).step_by(LANES) {
        let from = x[column..].as_ptr();
        // SAFETY: so many columns are left of `x`, and `out` has whole sixteens.
        unsafe {
            let v = if column + LANES <= width {
                E::load::<I>(from)
            } else {
                load_part::<I, E>(from, width - column)
            };
            squares = I::fma(v, v, squares);
            I::store(v, out.as_mut_ptr().add(column));
        }
    }
    if let Some(norm) = norm {
        let inverse = I::splat(1.0 / (I::sum(squares) / width as f32 + norm.epsilon).sqrt());
        for column in (0..width).step_by(LANES) {
            let gamma = norm.gamma[column..].as_ptr();
            // SAFETY: as above; gamma is as wide as `x`.
            unsafe {
                let gamma = if column + LANES <= width {
                    I::load(gamma)
                } else {
                    load_part::<I, f32>(gamma, width - column)
                };
                let at = out.as_mut_ptr().add(column);
                I::store(I::mul(I::mul(I::load(at), inverse), gamma), at);
            }
        }
    }
    let half = cos.len();
    let whole = half - half % LANES;
    for column in (0..whole).step_by(LANES) {
        // SAFETY: below `half`, which is at most half of what `out` has.
        unsafe {
            let (c, s) = (I::load(cos.as_ptr().add(column)), I::load(sin.as_ptr().add(column)));
            let (first, second) = (out.as_mut_ptr().add(column), out.as_mut_ptr().add(half + column));
            let (a, b) = (I::load(first), I::load(second));
            I::store(I::sub(I::mul(a, c), I::mul(b, s)), first);
            I::store(I::add(I::mul(b, c), I::mul(a, s)), second);
        }
    }
    for column in whole..half {
        let (a, b, c, s) = (out[column], out[half + column], cos[column], sin[column]);
        out[column] = a * c - b * s;
        out[half + column] = b * c + a * s;
    }
}

/// One head's key.
///
/// # Safety
/// The cache has the job's layout and dtype, and nobody else writes or reads this place.
#[inline(always)]
unsafe fn write_key<E: Element>(job: &Job<'_, E>, key: &[f32], head: usize, (block, at): (usize, usize)) {
    let layout = &job.layout;
    let mut word = layout.head(block, head)[0] + layout.key_panel(at / layout.lanes) + at % layout.lanes;
    // SAFETY: words of this key only, a step apart, as many as its columns have.
    unsafe {
        match E::FORMAT {
            WeightFormat::Bf16 => {
                for pair in key.chunks(2) {
                    let low = crate::target::round_to_bf16(pair[0]) as u32;
                    let high = if pair.len() == 2 { crate::target::round_to_bf16(pair[1]) as u32 } else { 0 };
                    *job.words.0.add(word) = high << 16 | low;
                    word += layout.lanes;
                }
            }
            _ => {
                for value in key {
                    *job.words.0.add(word) = value.to_bits();
                    word += layout.lanes;
                }
            }
        }
    }
}

/// One head's value.
///
/// # Safety
/// As for [`write_key`].
#[inline(always)]
unsafe fn write_value<E: Element>(job: &Job<'_, E>, value: &[E], head: usize, (block, at): (usize, usize)) {
    let layout = &job.layout;
    let start = layout.head(block, head)[1];
    for (panel, columns) in value.chunks(PANEL).enumerate() {
        // SAFETY: values of this key only, in every step of a panel its own, the dtype's size apart.
        unsafe {
            let to = job.words.0.add(start).cast::<E>().add(layout.value_at(at, panel * PANEL));
            for (column, value) in columns.iter().enumerate() {
                *to.add(column * layout.group) = *value;
            }
        }
    }
}
