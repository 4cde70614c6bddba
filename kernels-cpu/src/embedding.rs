//! Embedding lookup, alone or with the normalisation that follows it.

use crate::aligned::AlignedBuffer;
use crate::element::{Element, load_part, store_part};
use crate::isa::Isa;
use crate::norm::{NormParams, layer_norm};
use crate::target::{LANES, Target, dispatch};
use crate::team;

/// Rows of one task.
const ROW_BLOCK: usize = 128;

/// One lookup: `norm(words[id] + positions[position])`.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingCall<'a, E> {
    /// Token ids, `[T]`.
    pub ids: &'a [u32],
    /// Positions, `[T]`.
    pub positions: &'a [u32],
    /// Word table, `[vocabulary, width]`.
    pub words: &'a [E],
    /// Position table, `[positions, width]`.
    pub position_table: &'a [E],
    /// The normalisation; its width is the tables'.
    pub norm: NormParams<'a>,
}

/// Writes the embeddings, `[T, width]`.
///
/// # Panics
/// When an id or a position is not in its table.
pub fn embed_norm<E: Element>(isa: Isa, call: EmbeddingCall<'_, E>, out: &mut [E]) {
    isa.require();
    let width = call.norm.gamma.len();
    assert_eq!(call.norm.beta.len(), width, "gamma and beta differ in width");
    assert_eq!(call.positions.len(), call.ids.len(), "ids and positions differ in number");
    assert_eq!(out.len(), call.ids.len() * width, "out is not [{}, {width}]", call.ids.len());
    if width == 0 {
        return;
    }
    let blocks: Vec<std::sync::Mutex<&mut [E]>> = out.chunks_mut(ROW_BLOCK * width).map(Into::into).collect();
    team::for_each(blocks.len(), |i| {
        let mut block = blocks[i].lock().expect("one task a block");
        rows(isa, &call, i * ROW_BLOCK, &mut block);
    });
}

/// Writes the rows `ids` of `table`, `[vocabulary, width]`, to `out`, `[T, width]`, on the threads of the [`team`].
///
/// # Panics
/// When an id is not in the table, or a length does not fit.
pub fn embed<E: Element>(ids: &[u32], table: &[E], width: usize, out: &mut [E]) {
    assert_eq!(out.len(), ids.len() * width, "out is not [{}, {width}]", ids.len());
    if width == 0 {
        return;
    }
    let blocks: Vec<std::sync::Mutex<&mut [E]>> = out.chunks_mut(ROW_BLOCK * width).map(Into::into).collect();
    team::for_each(blocks.len(), |i| {
        let mut block = blocks[i].lock().expect("one task a block");
        for (row, id) in block.chunks_exact_mut(width).zip(&ids[i * ROW_BLOCK..]) {
            row.copy_from_slice(&table[*id as usize * width..][..width]);
        }
    });
}

dispatch! {
    fn rows<E: Element>(call: &EmbeddingCall<'_, E>, first: usize, out: &mut [E]) = rows_body
}

#[inline(always)]
fn rows_body<I: Target, E: Element>(call: &EmbeddingCall<'_, E>, first: usize, out: &mut [E]) {
    let width = call.norm.gamma.len();
    let whole = width - width % LANES;
    let mut sums = AlignedBuffer::default();
    let sums = sums.at_least::<f32>(width);
    for (i, row) in out.chunks_exact_mut(width).enumerate() {
        let (id, position) = (call.ids[first + i] as usize, call.positions[first + i] as usize);
        let word = call.words[id * width..][..width].as_ptr();
        let place = call.position_table[position * width..][..width].as_ptr();
        // SAFETY: all values are below the width of the tables' rows, of the sums and of the result's row.
        unsafe {
            for c in (0..whole).step_by(LANES) {
                let sum = I::add(E::load::<I>(word.add(c)), E::load::<I>(place.add(c)));
                I::store(sum, sums.as_mut_ptr().add(c));
            }
            let rest = width - whole;
            let (word, place) = (word.add(whole), place.add(whole));
            let tail = I::add(load_part::<I, E>(word, rest), load_part::<I, E>(place, rest));
            store_part::<I, f32>(tail, sums.as_mut_ptr().add(whole), rest);
            layer_norm::<I, E>(sums.as_ptr(), call.norm, row.as_mut_ptr());
        }
    }
}
