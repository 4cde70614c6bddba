//! Embedding lookup and the normalisation that follows it.

use rayon::prelude::*;

use crate::epilogue::add;
use crate::isa::{Isa, Target, dispatch};
use crate::norm::{NormParams, layer_norm};

const ROW_BLOCK: usize = 64;

/// One lookup: `norm(words[id] + positions[position])`.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingCall<'a> {
    /// Token ids, `[T]`.
    pub ids: &'a [u32],
    /// Positions, `[T]`.
    pub positions: &'a [u32],
    /// Word table, `[vocabulary, width]`.
    pub words: &'a [f32],
    /// Position table, `[positions, width]`.
    pub position_table: &'a [f32],
    /// The normalisation; its width is the tables'.
    pub norm: NormParams<'a>,
}

/// Writes the embeddings, `[T, width]`.
///
/// # Panics
/// When an id or a position is not in its table.
pub fn embed_norm(isa: Isa, call: EmbeddingCall<'_>, out: &mut [f32]) {
    isa.require();
    let width = call.norm.gamma.len();
    assert_eq!(call.norm.beta.len(), width, "gamma and beta differ in width");
    assert_eq!(call.positions.len(), call.ids.len(), "ids and positions differ in number");
    assert_eq!(out.len(), call.ids.len() * width, "out is not [{}, {width}]", call.ids.len());
    if width == 0 {
        return;
    }
    if rayon::current_num_threads() == 1 || call.ids.len() <= ROW_BLOCK {
        out.chunks_mut(ROW_BLOCK * width).enumerate().for_each(|(i, o)| rows(isa, &call, i * ROW_BLOCK, o));
    } else {
        out.par_chunks_mut(ROW_BLOCK * width)
            .enumerate()
            .for_each(|(i, o)| rows(isa, &call, i * ROW_BLOCK, o));
    }
}

dispatch! {
    fn rows(call: &EmbeddingCall<'_>, first: usize, out: &mut [f32]) = rows_body
}

#[inline(always)]
fn rows_body<I: Target>(call: &EmbeddingCall<'_>, first: usize, out: &mut [f32]) {
    let width = call.norm.gamma.len();
    for (i, row) in out.chunks_exact_mut(width).enumerate() {
        let (id, position) = (call.ids[first + i] as usize, call.positions[first + i] as usize);
        row.copy_from_slice(&call.words[id * width..][..width]);
        add(row, &call.position_table[position * width..][..width]);
        layer_norm::<I>(row, call.norm);
    }
}
