//! Bidirectional attention over packed rows: every sequence sees itself and nothing else, nothing is padded.

use rayon::prelude::*;

use crate::isa::{Isa, Target, dispatch};
use crate::lanes::{LANES, at, at_mut, axpy, sum};
use crate::math::exp;

/// Query rows of one task.
const QUERY_BLOCK: usize = 64;

/// Heads and their width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Number of heads.
    pub heads: usize,
    /// Width of one head.
    pub width: usize,
}

/// One attention over packed rows.
#[derive(Clone, Copy, Debug)]
pub struct AttentionCall<'a> {
    /// Queries, row `t` at `t * stride`, heads side by side.
    pub q: &'a [f32],
    /// Keys, likewise.
    pub k: &'a [f32],
    /// Values, likewise.
    pub v: &'a [f32],
    /// Distance between rows of q, k and v, in elements.
    pub stride: usize,
    /// Starts of the sequences and the end of the last, `[B + 1]`.
    pub cu_seqlens: &'a [u32],
    /// Heads.
    pub heads: HeadShape,
    /// Factor on the scores, `1 / sqrt(width)`.
    pub scale: f32,
}

/// Writes the context, `[T, heads * width]`, on the threads of the current rayon pool.
///
/// # Panics
/// When a slice is shorter than the sequences say.
pub fn attention_packed(isa: Isa, call: AttentionCall<'_>, out: &mut [f32]) {
    isa.require();
    let width = call.heads.heads * call.heads.width;
    let bounds = call.cu_seqlens;
    assert!(bounds.first() == Some(&0) && bounds.is_sorted(), "cu_seqlens does not ascend from 0");
    let total = call.cu_seqlens.last().map_or(0, |end| *end as usize);
    assert_eq!(out.len(), total * width, "out is not [{total}, {width}]");
    for (name, values) in [("q", call.q), ("k", call.k), ("v", call.v)] {
        let needed = if total == 0 { 0 } else { (total - 1) * call.stride + width };
        assert!(values.len() >= needed, "{name} has {} values, {needed} are needed", values.len());
    }
    let mut tasks = vec![];
    let mut rest = out;
    for pair in call.cu_seqlens.windows(2) {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        let mut query = start;
        while query < end {
            let count = QUERY_BLOCK.min(end - query);
            let (block, tail) = rest.split_at_mut(count * width);
            rest = tail;
            tasks.push((Task { start, end, query }, block));
            query += count;
        }
    }
    if rayon::current_num_threads() == 1 {
        tasks.into_iter().for_each(|(task, block)| run_task(isa, &call, task, block));
    } else {
        tasks.into_par_iter().for_each(|(task, block)| run_task(isa, &call, task, block));
    }
}

/// Some query rows of one sequence.
#[derive(Clone, Copy)]
struct Task {
    start: usize,
    end: usize,
    query: usize,
}

dispatch! {
    fn run_task(call: &AttentionCall<'_>, task: Task, out: &mut [f32]) = run_task_body
}

#[inline(always)]
fn run_task_body<I: Target>(call: &AttentionCall<'_>, task: Task, out: &mut [f32]) {
    let HeadShape { heads, width } = call.heads;
    let keys = task.end - task.start;
    let padded = keys.next_multiple_of(LANES);
    let mut transposed = vec![0f32; width * padded];
    let mut scores = vec![0f32; padded];
    for head in 0..heads {
        for j in 0..keys {
            let key = &call.k[(task.start + j) * call.stride + head * width..][..width];
            for (d, value) in key.iter().enumerate() {
                transposed[d * padded + j] = *value;
            }
        }
        for (i, row) in out.chunks_exact_mut(heads * width).enumerate() {
            let query = &call.q[(task.query + i) * call.stride + head * width..][..width];
            score_row::<I>(query, call.scale, &transposed, &mut scores);
            let inverse = softmax_numerators::<I>(&mut scores, keys);
            let context = &mut row[head * width..][..width];
            context.fill(0.0);
            for (j, weight) in scores[..keys].iter().enumerate() {
                let value = &call.v[(task.start + j) * call.stride + head * width..][..width];
                axpy::<I>(*weight, value, context);
            }
            context.iter_mut().for_each(|c| *c *= inverse);
        }
    }
}

/// `scores = scale * q K^T`, keys in the lanes, four registers of them at a time.
#[inline(always)]
fn score_row<I: Target>(query: &[f32], scale: f32, transposed: &[f32], scores: &mut [f32]) {
    let padded = scores.len();
    let mut key = 0;
    while key < padded {
        if key + 4 * LANES <= padded {
            score_lanes::<I, 4>(query, scale, transposed, scores, key);
            key += 4 * LANES;
        } else {
            score_lanes::<I, 1>(query, scale, transposed, scores, key);
            key += LANES;
        }
    }
}

#[inline(always)]
fn score_lanes<I: Target, const N: usize>(
    query: &[f32],
    scale: f32,
    transposed: &[f32],
    scores: &mut [f32],
    key: usize,
) {
    let padded = scores.len();
    let mut acc = [I::splat(0.0); N];
    for (d, q) in query.iter().enumerate() {
        let q = I::splat(*q * scale);
        for (n, acc) in acc.iter_mut().enumerate() {
            *acc = I::fma_lanes(q, I::load(at(transposed, d * padded + key + n * LANES)), *acc);
        }
    }
    for (n, acc) in acc.into_iter().enumerate() {
        I::store(acc, at_mut(scores, key + n * LANES));
    }
}

/// Turns the first `count` scores into `e^(s - max)`, the padding into 0, and returns one over their sum.
#[inline(always)]
fn softmax_numerators<I: Target>(scores: &mut [f32], count: usize) -> f32 {
    scores[count..].fill(f32::NEG_INFINITY);
    let mut highest = [f32::NEG_INFINITY; LANES];
    for chunk in scores.chunks_exact(LANES) {
        for i in 0..LANES {
            highest[i] = if chunk[i] > highest[i] { chunk[i] } else { highest[i] };
        }
    }
    let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut total = [0f32; LANES];
    for chunk in scores.chunks_exact_mut(LANES) {
        for i in 0..LANES {
            chunk[i] = exp::<I>(chunk[i] - highest);
            total[i] += chunk[i];
        }
    }
    1.0 / sum(total)
}
