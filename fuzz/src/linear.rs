//! Linear layers of any shape, format and adapters: every instruction set computes what its scalar twin does, and no value
//! of one row reaches another.

use std::num::NonZeroUsize;
use std::ops::Range;

use arbitrary::Arbitrary;
use half::bf16;
use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::{
    Activation, Element, LinearCall, LoraSegment, LoraSpan, NormParams, PackedLora, PackedMatrix,
    WeightFormat, linear, team,
};

use crate::values::{bits, values};

const MOST_SEGMENTS: usize = 6;
const MOST_SPANS: usize = 4;
const EPSILON: f32 = 1e-5;

/// A layer, told in few bytes.
#[derive(Arbitrary, Clone, Debug)]
pub struct Input {
    rows: u8,
    inputs: u8,
    outputs: u8,
    format: Format,
    activation: Follow,
    rows_are_bf16: bool,
    /// Whether adapters are packed for the base's format.
    packed: bool,
    bias: bool,
    residual: bool,
    norm: bool,
    threads: bool,
    seed: u16,
    segments: Vec<Segment>,
    odd: Option<Odd>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Format {
    F32,
    Bf16,
    Int8,
    Int8InEights,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Follow {
    Nothing,
    Gelu,
    GeluTanh,
    Relu,
}

/// Rows of one adapter, after a gap.
#[derive(Arbitrary, Clone, Debug)]
struct Segment {
    gap: u8,
    rows: u8,
    spans: Vec<Span>,
}

/// Columns that an adapter changes, after a gap.
#[derive(Arbitrary, Clone, Debug)]
struct Span {
    gap: u8,
    columns: u8,
    rank: u8,
    gain: bool,
    bias: bool,
}

/// Any number at all in one place of the input.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Odd {
    row: u8,
    input: u8,
    value: f32,
}

/// Checks both laws for the layer that `input` tells of.
pub fn check(input: &Input) {
    if input.rows_are_bf16 {
        Layer::<bf16>::new(input).check(input)
    } else {
        Layer::<f32>::new(input).check(input)
    }
}

struct Layer<E> {
    rows: usize,
    inputs: usize,
    outputs: usize,
    format: WeightFormat,
    activation: Activation,
    x: Vec<E>,
    packed: PackedMatrix,
    bias: Option<Vec<f32>>,
    residual: Option<Vec<E>>,
    norm: Option<[Vec<f32>; 2]>,
    segments: Vec<(Range<usize>, Vec<Adapted>)>,
    adapters_are_packed: bool,
}

/// One span with its numbers.
struct Adapted {
    columns: Range<usize>,
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    gain: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

impl<E: Element> Layer<E> {
    fn new(input: &Input) -> Self {
        let (rows, inputs, outputs) =
            (input.rows as usize % 150 + 1, input.inputs as usize + 1, input.outputs as usize % 100 + 1);
        let seed = u64::from(input.seed) << 8;
        let format = match input.format {
            Format::F32 => WeightFormat::F32,
            Format::Bf16 => WeightFormat::Bf16,
            Format::Int8 => WeightFormat::Int8,
            Format::Int8InEights => WeightFormat::Int8InEights,
        };
        let weight = values::<f32>(seed, outputs * inputs);
        let mut at = 0;
        let segments = input.segments.iter().take(MOST_SEGMENTS).enumerate().map(|(i, segment)| {
            let start = rows.min(at + segment.gap as usize % 8);
            at = start + share(segment.rows, rows - start);
            (start..at, adapted(segment, (inputs, outputs), seed + 16 * (i as u64 + 1)))
        });
        Self {
            segments: segments.collect(),
            adapters_are_packed: input.packed,
            rows,
            inputs,
            outputs,
            format,
            activation: match input.activation {
                Follow::Nothing => Activation::Identity,
                Follow::Gelu => Activation::Gelu,
                Follow::GeluTanh => Activation::GeluTanh,
                Follow::Relu => Activation::Relu,
            },
            x: values(seed + 1, rows * inputs),
            packed: PackedMatrix::pack(&weight, outputs, inputs, format),
            bias: input.bias.then(|| values(seed + 2, outputs)),
            residual: input.residual.then(|| values(seed + 3, rows * outputs)),
            norm: input.norm.then(|| [values(seed + 4, outputs), values(seed + 5, outputs)]),
        }
    }

    fn check(mut self, input: &Input) {
        let threads = if input.threads { 2 } else { 1 };
        let twin = self.run(Isa::Scalar, 1, true);
        let sums = self.norm.is_some().then(|| self.run(Isa::Scalar, 1, false));
        let clean: Vec<(Isa, Vec<E>)> =
            Isa::available().into_iter().map(|isa| (isa, self.run(isa, threads, true))).collect();
        for (isa, got) in &clean {
            for row in 0..self.rows {
                let place = row * self.outputs..(row + 1) * self.outputs;
                let sums = sums.as_ref().map(|sums| &sums[place.clone()]);
                self.assert_row(*isa, row, (&got[place.clone()], &twin[place]), sums);
            }
        }
        let Some(odd) = input.odd else { return };
        let row = odd.row as usize % self.rows;
        self.x[row * self.inputs + odd.input as usize % self.inputs] = E::from_f32(odd.value);
        for (isa, before) in clean {
            let mut after = self.run(isa, threads, true);
            let own = row * self.outputs..(row + 1) * self.outputs;
            after[own.clone()].copy_from_slice(&before[own]);
            assert!(bits(&after) == bits(&before), "{}: row {row} reached another", isa.name());
        }
    }

    /// The layer, or what its norm is of.
    fn run(&self, isa: Isa, threads: usize, with_norm: bool) -> Vec<E> {
        let mut out = vec![E::from_f32(f32::NAN); self.rows * self.outputs];
        let spans: Vec<Vec<LoraSpan<'_>>> =
            self.segments.iter().map(|(_, spans)| spans.iter().map(Adapted::span).collect()).collect();
        let pack =
            |spans: &Vec<LoraSpan<'_>>| PackedLora::pack(spans, self.outputs, self.inputs, self.format);
        let packed: Vec<Option<PackedLora>> =
            spans.iter().map(|spans| pack(spans).filter(|_| self.adapters_are_packed)).collect();
        let segments = self.segments.iter().zip(spans).zip(&packed);
        let lora: Vec<LoraSegment<'_>> = segments
            .map(|(((rows, _), spans), packed)| LoraSegment {
                rows: rows.clone(),
                spans,
                packed: packed.as_ref(),
            })
            .collect();
        let call = LinearCall {
            x: &self.x,
            weight: &self.packed,
            bias: self.bias.as_deref(),
            lora: &lora,
            activation: self.activation,
            residual: self.residual.as_deref(),
            norm: self.norm.as_ref().filter(|_| with_norm).map(|[gamma, beta]| NormParams {
                gamma,
                beta,
                epsilon: EPSILON,
            }),
        };
        let threads = NonZeroUsize::new(threads).expect("a thread");
        team::with_threads(threads, || linear(isa, call, &mut out));
        out
    }

    /// Holds one row against the twin's; `sums` is what the norm is of.
    fn assert_row(&self, isa: Isa, row: usize, (got, want): (&[E], &[E]), sums: Option<&[E]>) {
        let of_row = self.segments.iter().filter(|(rows, _)| rows.contains(&row));
        let ranks: usize = of_row.flat_map(|(_, spans)| spans.iter().map(|span| span.rank)).sum();
        // The most that the terms of a sum can come to, times what f32 may lose of it in another order.
        let mut order = 1e-6 * (self.inputs * (1 + ranks) + 3) as f32;
        if self.adapters_are_packed && self.format != WeightFormat::F32 {
            // `A x` is rounded on its way, to bf16 or to integers, and what rounds differs in its last bits.
            order += ((self.inputs * ranks) as f32).sqrt() / 128.0;
        }
        let rounded = E::FORMAT == WeightFormat::Bf16;
        // As the kernels' laws have it: what is rounded to bytes or bf16 on the way may round differently.
        let way = match (self.format, rounded) {
            (WeightFormat::F32, false) => 3e-4,
            (WeightFormat::Bf16, true) => 3e-4,
            (WeightFormat::F32, true) => 3e-4,
            (WeightFormat::Bf16, false) => 6e-2,
            (WeightFormat::Int8 | WeightFormat::Int8InEights, _) => 6e-2,
        };
        let result = if rounded { 1.7e-2 } else { 0.0 };
        let norm = sums.map(|sums| {
            let sums: Vec<f32> = sums.iter().map(|v| v.to_f32()).collect();
            let mean = sums.iter().sum::<f32>() / sums.len() as f32;
            let variance = sums.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / sums.len() as f32;
            (sums.iter().fold(0f32, |most, v| most.max(v.abs())), (variance + EPSILON).sqrt())
        });
        for (column, (got, want)) in got.iter().zip(want).enumerate() {
            let (got, want) = (got.to_f32(), want.to_f32());
            let allowed = match norm {
                None => (way + result) * (1.0 + want.abs()) + order,
                Some((most, deviation)) => {
                    (way * (1.0 + most) + order) * 4.0 / deviation * (1.0 + want.abs())
                        + result * (1.0 + want.abs())
                }
            };
            assert!(
                (got - want).abs() <= allowed,
                "{} row {row} column {column}: {got}, its twin {want}, allowed {allowed}",
                isa.name()
            );
        }
    }
}

/// So many 256ths of what is left, all of it from 250 on: what lies at the end must not be rare.
fn share(byte: u8, left: usize) -> usize {
    if byte >= 250 { left } else { left * byte as usize / 256 }
}

fn adapted(segment: &Segment, (inputs, outputs): (usize, usize), seed: u64) -> Vec<Adapted> {
    let mut at = 0;
    let spans = segment.spans.iter().take(MOST_SPANS).enumerate().map(|(i, span)| {
        let start = outputs.min(at + span.gap as usize % 16);
        at = start + share(span.columns, outputs - start);
        let (width, rank, seed) = (at - start, span.rank as usize % 24, seed + 4 * i as u64);
        Adapted {
            columns: start..at,
            rank,
            a: values(seed, rank * inputs),
            b: values(seed + 1, rank * width),
            gain: span.gain.then(|| values(seed + 2, width)),
            bias: span.bias.then(|| values(seed + 3, width)),
        }
    });
    spans.collect()
}

impl Adapted {
    fn span(&self) -> LoraSpan<'_> {
        let (gain, bias) = (self.gain.as_deref(), self.bias.as_deref());
        LoraSpan { columns: self.columns.clone(), rank: self.rank, a: &self.a, b: &self.b, gain, bias }
    }
}
