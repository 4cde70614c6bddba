//! A linear layer to test, and the naive one in f64.

use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::*;

use crate::values;

/// What follows the activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Nothing,
    Add,
    AddNorm,
}

impl After {
    pub const ALL: [After; 3] = [After::Nothing, After::Add, After::AddNorm];
}

/// A layer with everything that a call can have.
pub struct LayerFixture {
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub x: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub residual: Vec<f32>,
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
    pub segments: Vec<(std::ops::Range<usize>, Vec<SpanFixture>)>,
    /// Whether adapters are packed for the base's format.
    pub packed: bool,
}

pub struct SpanFixture {
    pub columns: std::ops::Range<usize>,
    pub rank: usize,
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub gain: Option<Vec<f32>>,
    pub bias: Option<Vec<f32>>,
}

impl LayerFixture {
    /// An even `seed` gives adapters that bring `A` and `B` alone, an odd one gains and biases too; every other pair of seeds leaves
    /// rows of the base between adapters'.
    pub fn new(seed: u64, rows: usize, inputs: usize, outputs: usize, ranks: &[usize]) -> Self {
        let vectors = !seed.is_multiple_of(2);
        let mut at = 0;
        let mut segments = vec![];
        for (i, rank) in ranks.iter().enumerate() {
            let len = (rows / ranks.len().max(1)).min(rows - at);
            if seed % 4 >= 2 && i % 3 == 1 {
                at += len;
                continue;
            }
            let cut = outputs / 2;
            let spans = [0..cut, cut..outputs]
                .into_iter()
                .enumerate()
                .filter(|(half, columns)| !columns.is_empty() && (i + half) % 3 != 2)
                .map(|(half, columns)| SpanFixture {
                    rank: *rank,
                    a: values(seed + 10 + i as u64, rank * inputs),
                    b: values(seed + 90 + half as u64, rank * columns.len()),
                    gain: (vectors && i % 2 == 0).then(|| values(seed + 5, columns.len())),
                    bias: (vectors && half == 1).then(|| values(seed + 6, columns.len())),
                    columns,
                })
                .collect();
            segments.push((at..at + len, spans));
            at += len;
        }
        Self {
            rows,
            inputs,
            outputs,
            x: values(seed, rows * inputs),
            weight: values(seed + 1, outputs * inputs),
            bias: values(seed + 2, outputs),
            residual: values(seed + 3, rows * outputs),
            gamma: values(seed + 4, outputs),
            beta: values(seed + 7, outputs),
            segments,
            packed: false,
        }
    }

    /// Spans as a call takes them.
    pub fn spans(spans: &[SpanFixture]) -> Vec<LoraSpan<'_>> {
        fn span(s: &SpanFixture) -> LoraSpan<'_> {
            let (gain, bias) = (s.gain.as_deref(), s.bias.as_deref());
            LoraSpan { columns: s.columns.clone(), rank: s.rank, a: &s.a, b: &s.b, gain, bias }
        }
        spans.iter().map(span).collect()
    }

    /// By segment, the packed form where there is one.
    fn pack(&self, format: WeightFormat) -> Vec<Option<PackedLora>> {
        let pack = |(_, spans): &(_, Vec<SpanFixture>)| {
            PackedLora::pack(&Self::spans(spans), self.outputs, self.inputs, format).filter(|_| self.packed)
        };
        self.segments.iter().map(pack).collect()
    }

    /// The layer on rows of `E` in a format.
    pub fn run<E: Element>(
        &self,
        isa: Isa,
        format: WeightFormat,
        activation: Activation,
        after: After,
    ) -> Vec<f32> {
        let packed = PackedMatrix::pack(&self.weight, self.outputs, self.inputs, format);
        let (x, residual) = (rounded::<E>(&self.x), rounded::<E>(&self.residual));
        let adapters = self.pack(format);
        let segments: Vec<LoraSegment<'_>> = (self.segments.iter().zip(&adapters))
            .map(|((rows, spans), packed)| LoraSegment {
                rows: rows.clone(),
                spans: Self::spans(spans),
                packed: packed.as_ref(),
            })
            .collect();
        // Poisoned: everything must be written.
        let mut out = vec![E::from_f32(f32::NAN); self.rows * self.outputs];
        let norm = NormParams { gamma: &self.gamma, beta: &self.beta, epsilon: 1e-5 };
        linear(
            isa,
            LinearCall {
                x: &x,
                weight: &packed,
                bias: Some(&self.bias),
                lora: &segments,
                activation,
                residual: (after != After::Nothing).then_some(&residual),
                norm: (after == After::AddNorm).then_some(norm),
            },
            &mut out,
        );
        out.into_iter().map(E::to_f32).collect()
    }

    /// The same layer with weights and rows as a format and a dtype round them.
    pub fn into_rounded<E: Element>(mut self, format: WeightFormat) -> Self {
        self.weight = PackedMatrix::pack(&self.weight, self.outputs, self.inputs, format).unpack();
        for values in [&mut self.x, &mut self.residual] {
            values.iter_mut().for_each(|v| *v = E::from_f32(*v).to_f32());
        }
        self
    }

    pub fn naive(&self, activation: Activation, after: After) -> Vec<f32> {
        let mut out = vec![];
        for r in 0..self.rows {
            let x: Vec<f64> = self.x[r * self.inputs..][..self.inputs].iter().map(|v| *v as f64).collect();
            let product = |m: &[f32], row: usize| -> f64 {
                (0..self.inputs).map(|k| x[k] * m[row * self.inputs + k] as f64).sum()
            };
            let mut y: Vec<f64> = (0..self.outputs).map(|o| product(&self.weight, o)).collect();
            let mut bias: Vec<f64> = self.bias.iter().map(|v| *v as f64).collect();
            for (_, spans) in self.segments.iter().filter(|(rows, _)| rows.contains(&r)) {
                for span in spans {
                    let width = span.columns.len();
                    for (i, c) in span.columns.clone().enumerate() {
                        y[c] *= span.gain.as_ref().map_or(1.0, |g| g[i] as f64);
                        for j in 0..span.rank {
                            y[c] += product(&span.a, j) * span.b[j * width + i] as f64;
                        }
                        if let Some(own) = &span.bias {
                            bias[c] = own[i] as f64;
                        }
                    }
                }
            }
            for (c, y) in y.iter_mut().enumerate() {
                let v = *y + bias[c];
                *y = activated(activation, v);
                *y += if after == After::Nothing { 0.0 } else { self.residual[r * self.outputs + c] as f64 };
            }
            if after == After::AddNorm {
                let mean = y.iter().sum::<f64>() / self.outputs as f64;
                let variance = y.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / self.outputs as f64;
                for (y, (gamma, beta)) in y.iter_mut().zip(self.gamma.iter().zip(&self.beta)) {
                    *y = (*y - mean) / (variance + 1e-5).sqrt() * *gamma as f64 + *beta as f64;
                }
            }
            out.extend(y.into_iter().map(|v| v as f32));
        }
        out
    }
}

/// `activation(v)` by its definition.
pub fn activated(activation: Activation, v: f64) -> f64 {
    match activation {
        Activation::Identity => v,
        Activation::Relu => v.max(0.0),
        Activation::Silu => v / (1.0 + (-v).exp()),
        Activation::GeluTanh => 0.5 * v * (1.0 + (0.797_884_560_8 * (v + 0.044_715 * v * v * v)).tanh()),
        Activation::Gelu => 0.5 * v * (1.0 + erf(v / std::f64::consts::SQRT_2)),
    }
}

/// By Simpson's rule: slow and independent of the kernel's way.
fn erf(x: f64) -> f64 {
    let x = x.clamp(-6.0, 6.0);
    let n = 400;
    let h = x / n as f64;
    let f = |t: f64| (-t * t).exp();
    let inner: f64 = (1..n).map(|i| f(i as f64 * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    (f(0.0) + inner + f(x)) * h / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
}

/// Values as a dtype rounds them.
pub fn rounded<E: Element>(values: &[f32]) -> Vec<E> {
    values.iter().map(|v| E::from_f32(*v)).collect()
}
