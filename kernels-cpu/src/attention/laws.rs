//! Attention on every instruction set, over queries, keys and values that end where the memory ends.

use half::bf16;

use super::{AttentionCall, HeadShape, attention_packed};
use crate::aligned::{AlignedBuffer, LINE};
use crate::amx_laws::{assert_close, in_new_memory, on_threads, values};
use crate::element::Element;
use crate::isa::Isa;

/// Lengths around sixteens, panels, and a block of keys.
const LENGTHS: [usize; 8] = [1, 14, 16, 17, 33, 512, 513, 529];

/// Values that end with the last byte of their memory.
struct Fenced<E> {
    buffer: AlignedBuffer,
    count: usize,
    element: std::marker::PhantomData<E>,
}

impl<E: Element + bytemuck::Pod> Fenced<E> {
    fn new(values: &[f32]) -> Self {
        let mut buffer = AlignedBuffer::zeroed((values.len() * size_of::<E>()).next_multiple_of(LINE));
        let all = buffer.values_mut::<E>();
        let first = all.len() - values.len();
        all[first..].iter_mut().zip(values).for_each(|(to, v)| *to = E::from_f32(*v));
        Self { buffer, count: values.len(), element: std::marker::PhantomData }
    }

    fn values(&self) -> &[E] {
        let all = self.buffer.values::<E>();
        &all[all.len() - self.count..]
    }
}

fn run<E: Element + bytemuck::Pod>(isa: Isa, length: usize, heads: HeadShape) -> Vec<f32> {
    let width = heads.heads * heads.width;
    let [q, k, v] = [1, 2, 3].map(|seed| Fenced::<E>::new(&values(seed, length * width)));
    let mut out = Fenced::<E>::new(&vec![f32::NAN; length * width]);
    let call = AttentionCall {
        q: q.values(),
        k: k.values(),
        v: v.values(),
        stride: width,
        cu_seqlens: &[0, length as u32],
        heads,
        scale: 1.0 / (heads.width as f32).sqrt(),
    };
    let first = out.buffer.values::<E>().len() - out.count;
    attention_packed(isa, call, &mut out.buffer.values_mut::<E>()[first..]);
    out.values().iter().map(|v| v.to_f32()).collect()
}

#[test]
fn attention_reads_nothing_beyond_queries_keys_and_values_and_equals_its_scalar_twin() {
    for (width, length) in [1, 2, 7, 30, 34, 64].into_iter().flat_map(|w| LENGTHS.map(|length| (w, length))) {
        // New memory for each: what a thread keeps from call to call grows, and only its end is fenced.
        in_new_memory(|| {
            let heads = HeadShape { heads: 2, width };
            let (want, want16) =
                (run::<f32>(Isa::Scalar, length, heads), run::<bf16>(Isa::Scalar, length, heads));
            for isa in Isa::available() {
                let what = format!("{}: {length} rows, width {width}", isa.name());
                let got = on_threads(1, || run::<f32>(isa, length, heads));
                assert_close(&got, &want, (1e-4, 1e-4), &what);
                let got = on_threads(1, || run::<bf16>(isa, length, heads));
                assert_close(&got, &want16, (1.0 / 64.0, 1.0 / 64.0), &format!("{what}, bf16"));
            }
        });
    }
}
