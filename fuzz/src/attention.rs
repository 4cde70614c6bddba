//! Attention over any sequences and heads: every instruction set computes what its scalar twin does, and a sequence has the
//! same bits alone as among others.

use std::num::NonZeroUsize;

use arbitrary::Arbitrary;
use half::bf16;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::{AttentionCall, Element, HeadShape, attention_packed, team};

use crate::values::{bits, values};

const MOST_SEQUENCES: usize = 5;

/// An attention, told in few bytes.
#[derive(Arbitrary, Clone, Debug)]
pub struct Input {
    lengths: Vec<u8>,
    /// One in sixteen: a single sequence, longer than a block of keys.
    long: u8,
    heads: u8,
    width: u8,
    /// Values between one row's heads and the next row's.
    gap: u8,
    rows_are_bf16: bool,
    threads: bool,
    steep: bool,
    seed: u16,
}

/// Checks both laws for the attention that `input` tells of.
pub fn check(input: &Input) {
    if input.rows_are_bf16 { laws::<bf16>(input) } else { laws::<f32>(input) }
}

struct Rows<E> {
    q: Vec<E>,
    k: Vec<E>,
    v: Vec<E>,
    stride: usize,
    heads: HeadShape,
    scale: f32,
}

fn laws<E: Element>(input: &Input) {
    let long = input.long % 16 == 7;
    let mut bounds = vec![0u32];
    for (i, length) in input.lengths.iter().take(if long { 1 } else { MOST_SEQUENCES }).enumerate() {
        let length = u32::from(*length) % 100 + if long { 513 } else { 0 };
        bounds.push(bounds[i] + length);
    }
    let mut heads = HeadShape { heads: input.heads as usize % 4 + 1, width: input.width as usize % 70 + 1 };
    if long {
        heads = HeadShape { heads: 1, width: heads.width.min(8) };
    }
    let total = bounds[bounds.len() - 1] as usize;
    let stride = heads.heads * heads.width + input.gap as usize % 40;
    // Not a value more than is needed: what is read beyond is not ours.
    let needed = if total == 0 { 0 } else { (total - 1) * stride + heads.heads * heads.width };
    let seed = u64::from(input.seed) << 2;
    let rows = Rows::<E> {
        q: values(seed, needed),
        k: values(seed + 1, needed),
        v: values(seed + 2, needed),
        stride,
        heads,
        scale: if input.steep { 8.0 } else { 1.0 } / (heads.width as f32).sqrt(),
    };
    let threads = if input.threads { 2 } else { 1 };
    let twin = rows.run(Isa::Scalar, 1, 0, &bounds);
    // Scores differ by what another order of summing loses; bf16 rounds weights and the result.
    let order = 2e-6 * rows.scale * heads.width as f32;
    let allowed = order + if E::FORMAT == f32::FORMAT { 1e-5 } else { 1.6e-2 };
    let one = usize::from(input.seed) % (bounds.len() - 1).max(1);
    for isa in Isa::available() {
        let got = rows.run(isa, threads, 0, &bounds);
        for (place, (got, want)) in got.iter().zip(&twin).enumerate() {
            let (got, want) = (got.to_f32(), want.to_f32());
            assert!((got - want).abs() <= allowed, "{} value {place}: {got}, its twin {want}", isa.name());
        }
        if let [from, to] = bounds[one..bounds.len().min(one + 2)] {
            let alone = rows.run(isa, 1, from as usize, &[0, to - from]);
            let width = heads.heads * heads.width;
            let among = &got[from as usize * width..to as usize * width];
            assert!(bits(&alone) == bits(among), "{}: sequence {one} differs alone", isa.name());
        }
    }
}

impl<E: Element> Rows<E> {
    /// The context of the sequences in `bounds`, the first of which begins at row `first`.
    fn run(&self, isa: Isa, threads: usize, first: usize, bounds: &[u32]) -> Vec<E> {
        let total = bounds[bounds.len() - 1] as usize;
        let mut out = vec![E::from_f32(f32::NAN); total * self.heads.heads * self.heads.width];
        let start = (first * self.stride).min(self.q.len());
        let call = AttentionCall {
            q: &self.q[start..],
            k: &self.k[start..],
            v: &self.v[start..],
            stride: self.stride,
            cu_seqlens: bounds,
            heads: self.heads,
            scale: self.scale,
        };
        let threads = NonZeroUsize::new(threads).expect("a thread");
        team::with_threads(threads, || attention_packed(isa, call, &mut out));
        out
    }
}
