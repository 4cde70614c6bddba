//! Linear layers on tiles.

use half::bf16;

use super::{assert_close, bits, in_new_memory, on_threads, on_tiles, rounded, values};
use crate::aligned::AlignedBuffer;
use crate::isa::Isa;
use crate::tile_emulator::{own_instructions, processor_has_tiles};
use crate::{
    Activation, Element, LinearCall, LoraSegment, LoraSpan, NormParams, PackedLora, PackedMatrix,
    WeightFormat, linear,
};

/// Ranks of the two adapters.
const RANKS: [usize; 2] = [5, 16];

/// A layer with all that can follow it.
#[derive(Clone)]
struct Layer {
    rows: usize,
    inputs: usize,
    outputs: usize,
    x: Vec<f32>,
    residual: Vec<f32>,
    weight: Vec<f32>,
    /// Three vectors of the outputs' width: bias, gamma and an adapter's gain, beta.
    vectors: [Vec<f32>; 3],
    a: Vec<f32>,
    b: Vec<f32>,
    /// By row, the adapter.
    adapters: Vec<Option<usize>>,
    /// Whether they are packed, as they are served.
    packed: bool,
}

/// What follows the product.
#[derive(Clone, Copy, Debug)]
enum Epilogue {
    Plain,
    Gelu,
    Norm,
}

impl Layer {
    fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            rows,
            inputs,
            outputs,
            x: values(1, rows * inputs),
            residual: values(2, rows * outputs),
            weight: values(3, outputs * inputs),
            vectors: [4, 5, 6].map(|seed| values(seed, outputs)),
            a: values(7, RANKS[1] * inputs),
            b: values(8, RANKS[1] * outputs),
            // Runs that begin and end within tiles.
            adapters: (0..rows).map(|row| [None, Some(0), Some(1)][row / 11 % 3]).collect(),
            packed: true,
        }
    }

    /// The layer for some of its rows.
    fn part(&self, rows: std::ops::Range<usize>) -> Self {
        Self {
            rows: rows.len(),
            x: self.x[rows.start * self.inputs..rows.end * self.inputs].to_vec(),
            residual: self.residual[rows.start * self.outputs..rows.end * self.outputs].to_vec(),
            adapters: self.adapters[rows].to_vec(),
            ..self.clone()
        }
    }

    fn segments(&self) -> Vec<LoraSegment<'_>> {
        let mut segments: Vec<LoraSegment<'_>> = vec![];
        for (row, adapter) in self.adapters.iter().enumerate() {
            let Some(adapter) = *adapter else { continue };
            match segments.last_mut() {
                Some(last) if last.rows.end == row && self.adapters[row - 1] == Some(adapter) => {
                    last.rows.end += 1
                }
                _ => {
                    // One adapter on all columns, the other on some that are no panel's.
                    let columns = [0..self.outputs, self.outputs / 3..self.outputs][adapter].clone();
                    let (rank, width) = (RANKS[adapter], columns.len());
                    let (a, b) = (&self.a[..rank * self.inputs], &self.b[..rank * width]);
                    let gain = (adapter == 1).then(|| &self.vectors[1][..width]);
                    let span = LoraSpan { columns, rank, a, b, gain, bias: None };
                    segments.push(LoraSegment { rows: row..row + 1, spans: vec![span], packed: None });
                }
            }
        }
        segments
    }

    fn run<E: Element + bytemuck::Pod>(
        &self,
        isa: Isa,
        format: WeightFormat,
        epilogue: Epilogue,
    ) -> Vec<f32> {
        let weight = PackedMatrix::pack(&self.weight, self.outputs, self.inputs, format);
        // In memory that ends with the rows where they are whole lines long, as rows that tiles read in place are.
        let mut x = AlignedBuffer::default();
        let x = x.at_least::<E>(self.x.len());
        x.copy_from_slice(&rounded::<E>(&self.x));
        let residual = rounded::<E>(&self.residual);
        let mut segments = self.segments();
        let pack = |s: &LoraSegment<'_>| {
            PackedLora::pack(&s.spans, self.outputs, self.inputs, format).filter(|_| self.packed)
        };
        let packed: Vec<_> = segments.iter().map(pack).collect();
        segments.iter_mut().zip(&packed).for_each(|(segment, packed)| segment.packed = packed.as_ref());
        let norm = matches!(epilogue, Epilogue::Norm);
        let [bias, gamma, beta] = self.vectors.each_ref();
        let call = LinearCall {
            x,
            weight: &weight,
            bias: Some(bias),
            lora: &segments,
            activation: if matches!(epilogue, Epilogue::Gelu) {
                Activation::Gelu
            } else {
                Activation::Identity
            },
            residual: norm.then_some(&residual),
            norm: norm.then_some(NormParams { gamma, beta, epsilon: 1e-5 }),
        };
        // Poisoned: everything must be written.
        let mut out = vec![E::from_f32(f32::NAN); self.rows * self.outputs];
        linear(isa, call, &mut out);
        out.into_iter().map(E::to_f32).collect()
    }
}

const ROWS: [usize; 17] = [1, 2, 15, 16, 17, 18, 31, 32, 33, 47, 48, 49, 50, 63, 64, 65, 70];

/// Layers of many shapes, each with the next epilogue in turn and a number of threads.
fn for_many_layers(inputs: &[usize], run: impl Fn(&Layer, Epilogue, usize, &str)) {
    let mut case = 0;
    for (&inputs, outputs) in
        inputs.iter().flat_map(|inputs| [5, 32, 45, 96].map(|outputs| (inputs, outputs)))
    {
        for rows in ROWS {
            let epilogue = [Epilogue::Plain, Epilogue::Gelu, Epilogue::Norm][case % 3];
            let threads = 1 + case / 3 % 2;
            case += 1;
            let what = format!("[{rows}, {inputs}] to {outputs}, {epilogue:?}, {threads} threads");
            on_threads(threads, || run(&Layer::new(rows, inputs, outputs), epilogue, threads, &what));
        }
    }
}

#[test]
fn bf16_layers_on_tiles_equal_their_scalar_twin() {
    on_tiles(|| {
        for_many_layers(&[1, 31, 32, 33, 64, 96, 100], |layer, epilogue, _, what| {
            // `A x` of packed adapters is rounded to bf16 in a place of its own: one of its last places either way.
            let got = layer.run::<f32>(Isa::Amx, WeightFormat::Bf16, epilogue);
            let want = layer.run::<f32>(Isa::Avx512, WeightFormat::Bf16, epilogue);
            assert_close(&got, &want, (1.0 / 128.0, 5e-2), &format!("{what}, packed"));
            let layer = &Layer { packed: false, ..layer.clone() };
            // Rows and weights that bf16 holds: what is left is the order of the sums, and the result's rounding.
            let got = layer.run::<f32>(Isa::Amx, WeightFormat::Bf16, epilogue);
            let want = layer.run::<f32>(Isa::Scalar, WeightFormat::Bf16, epilogue);
            assert_close(&got, &want, (1e-4, 1e-4), what);
            let got = layer.run::<bf16>(Isa::Amx, WeightFormat::Bf16, epilogue);
            let want = layer.run::<bf16>(Isa::Scalar, WeightFormat::Bf16, epilogue);
            assert_close(&got, &want, (1.0 / 128.0, 1e-4), &format!("{what}, in bf16"));
        });
    });
}

#[test]
fn f32_rows_are_rounded_to_bf16_for_tiles() {
    on_tiles(|| {
        for rows in ROWS {
            let mut layer = Layer::new(rows, 80, 40);
            layer.adapters.fill(None);
            let rounded = layer.run::<f32>(Isa::Amx, WeightFormat::Bf16, Epilogue::Plain);
            // Less than half of bf16's last place, so that rounding takes it away again.
            layer.x.iter_mut().for_each(|v| *v *= 1.0 + 1.0 / 1024.0);
            let got = layer.run::<f32>(Isa::Amx, WeightFormat::Bf16, Epilogue::Plain);
            assert_eq!(bits(&got), bits(&rounded), "{rows} rows");
        }
    });
}

#[test]
fn int8_layers_on_tiles_equal_those_of_avx512_to_the_bit_and_their_scalar_twin_but_for_rounding() {
    on_tiles(|| {
        for_many_layers(&[1, 63, 64, 65, 100, 130], |layer, epilogue, _, what| {
            let got = layer.run::<f32>(Isa::Amx, WeightFormat::Int8, epilogue);
            let want = layer.run::<f32>(Isa::Avx512, WeightFormat::Int8, epilogue);
            assert_eq!(bits(&got), bits(&want), "{what}");
            let layer = &Layer { packed: false, ..layer.clone() };
            let got = layer.run::<f32>(Isa::Amx, WeightFormat::Int8, epilogue);
            // A byte that is rounded the other way moves a sum by a 255th of a row's range.
            let want = layer.run::<f32>(Isa::Scalar, WeightFormat::Int8, epilogue);
            assert_close(&got, &want, (3e-2, 3e-2), what);
            let got = layer.run::<bf16>(Isa::Amx, WeightFormat::Int8, epilogue);
            let want = layer.run::<bf16>(Isa::Avx512, WeightFormat::Int8, epilogue);
            assert_eq!(bits(&got), bits(&want), "{what}, in bf16");
        });
    });
}

#[test]
fn batch_mates_do_not_change_a_bit_of_a_row_on_tiles() {
    on_tiles(|| {
        for (inputs, outputs) in [(32, 40), (100, 64)] {
            let layer = Layer::new(200, inputs, outputs);
            for format in [WeightFormat::Bf16, WeightFormat::Int8] {
                for epilogue in [Epilogue::Gelu, Epilogue::Norm] {
                    let run = |layer: &Layer, threads: usize| {
                        on_threads(threads, || {
                            let f32s = layer.run::<f32>(Isa::Amx, format, epilogue);
                            [bits(&f32s), bits(&layer.run::<bf16>(Isa::Amx, format, epilogue))]
                        })
                    };
                    let together = run(&layer, 2);
                    assert_eq!(run(&layer, 1), together, "{format:?}, one thread and two");
                    let parts = [0..1, 15..16, 16..17, 31..32, 32..33, 47..48, 198..199, 199..200];
                    for part in parts.into_iter().chain([1..18, 20..53, 50..98, 3..150, 180..200]) {
                        let alone = run(&layer.part(part.clone()), 1 + part.len() % 2);
                        for (alone, together) in alone.iter().zip(&together) {
                            let together = &together[part.start * outputs..part.end * outputs];
                            assert_eq!(alone, together, "{format:?} {epilogue:?} rows {part:?} of {inputs}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn a_row_of_nan_or_infinity_stays_alone_on_tiles() {
    on_tiles(|| {
        for (inputs, rows) in [(32, 33), (32, 48), (100, 50)] {
            let (clean, outputs) = (Layer::new(rows, inputs, 40), 40);
            for (format, flaw) in [(WeightFormat::Bf16, f32::INFINITY), (WeightFormat::Int8, f32::NAN)] {
                let want = bits(&clean.run::<bf16>(Isa::Amx, format, Epilogue::Plain));
                for dirty in [0, 15, 16, rows - 1] {
                    let mut layer = clean.clone();
                    layer.x[dirty * inputs..][..inputs].fill(flaw);
                    let got = layer.run::<bf16>(Isa::Amx, format, Epilogue::Plain);
                    for (row, (got, want)) in got.chunks(outputs).zip(want.chunks(outputs)).enumerate() {
                        if row == dirty {
                            assert!(got.iter().all(|v| !v.is_finite()), "{format:?} row {row} of {rows}");
                        } else {
                            assert_eq!(bits(got), want, "{format:?} row {row} of {rows} beside {dirty}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn a_layer_on_tiles_reads_nothing_beyond_its_rows_panels_and_scratch_memory() {
    // Each run in a new thread: the memory is fenced where it ends, so it must end with what this run needs.
    for (rows, inputs) in ROWS.into_iter().flat_map(|rows| [1, 32, 50, 64, 96].map(|inputs| (rows, inputs))) {
        in_new_memory(|| {
            on_tiles(|| {
                let layer = Layer::new(rows, inputs, 33);
                for format in [WeightFormat::Bf16, WeightFormat::Int8] {
                    let (got, want) = on_threads(1, || {
                        let run = |isa| layer.run::<bf16>(isa, format, Epilogue::Plain);
                        (run(Isa::Amx), run(Isa::Avx512))
                    });
                    assert_close(
                        &got,
                        &want,
                        (1.0 / 128.0, 1e-4),
                        &format!("{rows} rows of {inputs}, {format:?}"),
                    );
                }
            });
        });
    }
}

#[test]
fn layers_of_bf16_and_int8_use_tiles_and_no_others_do() {
    on_tiles(|| {
        if processor_has_tiles() {
            return super::not_run("the processor's own tiles are not counted");
        }
        let (rows, inputs, outputs) = (70, 128, 96);
        let layer = Layer::new(rows, inputs, outputs);
        let count = |isa, format| {
            let before = own_instructions();
            on_threads(1, || layer.run::<bf16>(isa, format, Epilogue::Plain));
            (own_instructions() - before) as usize
        };
        for (format, group) in [(WeightFormat::Bf16, 2), (WeightFormat::Int8, 4)] {
            let products = rows.div_ceil(16) * outputs.div_ceil(16) * inputs.div_ceil(16 * group);
            let found = count(Isa::Amx, format);
            assert!(found >= products, "{format:?}: {found} instructions, {products} products at the least");
            assert_eq!(count(Isa::Avx512, format), 0);
        }
        assert_eq!(count(Isa::Amx, WeightFormat::F32), 0);
    });
}
