//! Gated linear units: `activation(gate) * up` (SwiGLU and its kin, arXiv 2002.05202).

use std::ops::Range;

use crate::element::{Element, load_part, store_part};
use crate::epilogue::{Activation, activate};
use crate::isa::Isa;
use crate::shared_out::SharedOut;
use crate::target::{LANES, Target, dispatch};
use crate::team;

/// Columns of one piece of a row.
const PIECE: usize = 4096;
/// Values of one task: enough to be worth a helper's attention.
const TASK_VALUES: usize = 2 * PIECE;

/// One gate: `activation(gate_up[:, ..width]) * gate_up[:, width..]`, in f32.
#[derive(Clone, Copy, Debug)]
pub struct GatedCall<'a, E> {
    /// Gate and up side by side, `[T, 2 * width]`.
    pub gate_up: &'a [E],
    /// Columns of each.
    pub width: usize,
    /// Activation of the gate.
    pub activation: Activation,
}

/// Writes the gated rows, `[T, width]`, on the threads of the [`team`].
///
/// # Panics
/// When a length does not fit the width.
pub fn gated<E: Element>(isa: Isa, call: GatedCall<'_, E>, out: &mut [E]) {
    isa.require();
    let width = call.width;
    assert_eq!(call.gate_up.len(), 2 * out.len(), "gate and up are not twice as many as the results");
    if out.is_empty() {
        return;
    }
    assert!(width > 0 && out.len().is_multiple_of(width), "out is not [T, {width}]");
    let pieces = out.len() / width * width.div_ceil(PIECE);
    let task = (TASK_VALUES / width.min(PIECE)).max(1);
    let out = SharedOut(out.as_mut_ptr());
    team::for_each(pieces.div_ceil(task), |i| {
        some_pieces(isa, &call, &out, i * task..pieces.min((i + 1) * task));
    });
}

dispatch! {
    fn some_pieces<E: Element>(call: &GatedCall<'_, E>, out: &SharedOut<E>, pieces: Range<usize>) = pieces_body
}

#[inline(always)]
fn pieces_body<I: Target, E: Element>(call: &GatedCall<'_, E>, out: &SharedOut<E>, pieces: Range<usize>) {
    let width = call.width;
    let a_row = width.div_ceil(PIECE);
    for piece in pieces {
        let (row, from) = (piece / a_row, piece % a_row * PIECE);
        let columns = from..width.min(from + PIECE);
        let both = &call.gate_up[row * 2 * width..][..2 * width];
        let (gate, up) = (&both[columns.clone()], &both[width + columns.start..width + columns.end]);
        // SAFETY: the result has these columns of the row, and no other task writes them.
        unsafe { gate_piece::<I, E>(call.activation, gate, up, out.0.add(row * width + from)) };
    }
}

/// `activation(gate) * up`, both as long.
///
/// # Safety
/// There is room for as many values at `out`.
#[inline(always)]
unsafe fn gate_piece<I: Target, E: Element>(activation: Activation, gate: &[E], up: &[E], out: *mut E) {
    let count = gate.len();
    assert_eq!(up.len(), count, "gate and up differ in width");
    let (gate, up) = (gate.as_ptr(), up.as_ptr());
    for c in (0..count).step_by(LANES) {
        let rest = count - c;
        // SAFETY: all accesses are below `count`, which gate and up have and the caller vouches for.
        unsafe {
            if rest >= LANES {
                let v = activate::<I>(activation, E::COARSE, E::load::<I>(gate.add(c)));
                E::store::<I>(I::mul(v, E::load::<I>(up.add(c))), out.add(c));
            } else {
                let v = activate::<I>(activation, E::COARSE, load_part::<I, E>(gate.add(c), rest));
                store_part::<I, E>(I::mul(v, load_part::<I, E>(up.add(c), rest)), out.add(c), rest);
            }
        }
    }
}
