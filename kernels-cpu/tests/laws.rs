//! Each kernel against a naive one in f64, on every instruction set of the machine, over shapes that are multiples of
//! nothing; and the law that a row's bits do not depend on its batch mates.

use polylora_kernels_cpu::isa::Isa;
use polylora_kernels_cpu::*;
use proptest::prelude::*;

/// Deterministic values in (-1, 1).
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / 8_388_608.0) - 1.0
        })
        .collect()
}

struct LayerFixture {
    rows: usize,
    inputs: usize,
    outputs: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    segments: Vec<(std::ops::Range<usize>, Vec<SpanFixture>)>,
}

struct SpanFixture {
    columns: std::ops::Range<usize>,
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    gain: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

impl LayerFixture {
    fn new(seed: u64, rows: usize, inputs: usize, outputs: usize, ranks: &[usize]) -> Self {
        let mut at = 0;
        let mut segments = vec![];
        for (i, rank) in ranks.iter().enumerate() {
            let len = (rows / ranks.len().max(1)).min(rows - at);
            let cut = outputs / 2;
            let spans = [0..cut, cut..outputs]
                .into_iter()
                .enumerate()
                .filter(|(half, columns)| !columns.is_empty() && (i + half) % 3 != 2)
                .map(|(half, columns)| SpanFixture {
                    rank: *rank,
                    a: values(seed + 10 + i as u64, rank * inputs),
                    b: values(seed + 90 + half as u64, rank * columns.len()),
                    gain: (i % 2 == 0).then(|| values(seed + 5, columns.len())),
                    bias: (half == 1).then(|| values(seed + 6, columns.len())),
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
        }
    }

    fn segments(&self) -> Vec<LoraSegment<'_>> {
        self.segments
            .iter()
            .map(|(rows, spans)| LoraSegment {
                rows: rows.clone(),
                spans: spans
                    .iter()
                    .map(|s| LoraSpan {
                        columns: s.columns.clone(),
                        rank: s.rank,
                        a: &s.a,
                        b: &s.b,
                        gain: s.gain.as_deref(),
                        bias: s.bias.as_deref(),
                    })
                    .collect(),
            })
            .collect()
    }

    fn run(&self, isa: Isa, activation: Activation, norm: bool) -> Vec<f32> {
        let packed = PackedMatrix::pack(&self.weight, self.outputs, self.inputs);
        // Poisoned: everything must be written.
        let mut out = vec![f32::NAN; self.rows * self.outputs];
        linear(
            isa,
            LinearCall {
                x: &self.x,
                weight: &packed,
                bias: Some(&self.bias),
                lora: &self.segments(),
                activation,
                residual: norm.then_some(&self.residual),
                norm: norm.then_some(NormParams { gamma: &self.gamma, beta: &self.beta, epsilon: 1e-5 }),
            },
            &mut out,
        );
        out
    }

    fn naive(&self, activation: Activation, norm: bool) -> Vec<f32> {
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
                *y = match activation {
                    Activation::Identity => v,
                    Activation::Relu => v.max(0.0),
                    Activation::GeluTanh => {
                        0.5 * v * (1.0 + (0.797_884_560_8 * (v + 0.044_715 * v * v * v)).tanh())
                    }
                    Activation::Gelu => 0.5 * v * (1.0 + erf(v / std::f64::consts::SQRT_2)),
                };
                *y += if norm { self.residual[r * self.outputs + c] as f64 } else { 0.0 };
            }
            if norm {
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

/// By Simpson's rule: slow and independent of the kernel's way.
fn erf(x: f64) -> f64 {
    let x = x.clamp(-6.0, 6.0);
    let n = 400;
    let h = x / n as f64;
    let f = |t: f64| (-t * t).exp();
    let inner: f64 = (1..n).map(|i| f(i as f64 * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    (f(0.0) + inner + f(x)) * h / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
}

fn assert_close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "{what}: value {i} is {g}, expected {w}");
    }
}

fn in_pool<T: Send>(threads: usize, run: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(run)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn linear_equals_the_naive_layer_on_every_instruction_set(
        seed in 0u64..1000, rows in 1usize..130, inputs in 1usize..90, outputs in 1usize..80,
        ranks in proptest::collection::vec(0usize..20, 0..5), norm in any::<bool>(), threads in 1usize..4,
        activation in prop::sample::select(vec![
            Activation::Identity, Activation::Gelu, Activation::GeluTanh, Activation::Relu]),
    ) {
        // A normalised row of one or two columns amplifies rounding without bound.
        let norm = norm && outputs > 4;
        let layer = LayerFixture::new(seed, rows, inputs, outputs, &ranks);
        let want = layer.naive(activation, norm);
        for isa in Isa::available() {
            let got = in_pool(threads, || layer.run(isa, activation, norm));
            assert_close(&got, &want, 3e-4, isa.name());
        }
    }

    #[test]
    fn batch_mates_do_not_change_a_bit_of_a_row(
        seed in 0u64..1000, rows in 1usize..200, inputs in 1usize..700, outputs in 1usize..70,
        ranks in proptest::collection::vec(1usize..20, 0..4), row in any::<prop::sample::Index>(),
    ) {
        let layer = LayerFixture::new(seed, rows, inputs, outputs, &ranks);
        let row = row.index(rows);
        let mut alone = LayerFixture::new(seed, 1, inputs, outputs, &[]);
        alone.x = layer.x[row * inputs..][..inputs].to_vec();
        alone.residual = layer.residual[row * outputs..][..outputs].to_vec();
        let own = LayerFixture::new(seed, rows, inputs, outputs, &ranks).segments.into_iter();
        alone.segments = own.filter(|(rows, _)| rows.contains(&row)).map(|(_, spans)| (0..1, spans)).collect();
        for isa in Isa::available() {
            let together = in_pool(2, || layer.run(isa, Activation::Gelu, true));
            let single = in_pool(1, || alone.run(isa, Activation::Gelu, true));
            let together: Vec<u32> = together[row * outputs..][..outputs].iter().map(|v| v.to_bits()).collect();
            let single: Vec<u32> = single.iter().map(|v| v.to_bits()).collect();
            prop_assert_eq!(together, single, "{}", isa.name());
        }
    }

    #[test]
    fn attention_equals_the_naive_one_and_sees_only_its_own_sequence(
        seed in 0u64..1000, lengths in proptest::collection::vec(1usize..90, 1..5),
        heads in 1usize..4, width in 1usize..40,
    ) {
        let mut cu = vec![0u32];
        lengths.iter().for_each(|l| cu.push(cu[cu.len() - 1] + *l as u32));
        let (total, w) = (cu[cu.len() - 1] as usize, heads * width);
        // q, k and v as a fused projection leaves them: side by side in one row.
        let fused = values(seed, total * 3 * w);
        let scale = 1.0 / (width as f32).sqrt();
        let call = AttentionCall {
            q: &fused, k: &fused[w..], v: &fused[2 * w..], stride: 3 * w, cu_seqlens: &cu,
            heads: HeadShape { heads, width }, scale,
        };
        let at = |part: usize, t: usize, c: usize| fused[t * 3 * w + part * w + c] as f64;
        let mut want = vec![];
        for pair in cu.windows(2) {
            let range = pair[0] as usize..pair[1] as usize;
            for t in range.clone() {
                for h in 0..heads {
                    let dots: Vec<f64> = range.clone().map(|j| {
                        (0..width).map(|d| at(0, t, h * width + d) * at(1, j, h * width + d)).sum::<f64>()
                            * scale as f64
                    }).collect();
                    let total: f64 = dots.iter().map(|s| s.exp()).sum();
                    for d in 0..width {
                        let v: f64 = range.clone().zip(&dots)
                            .map(|(j, s)| s.exp() / total * at(2, j, h * width + d)).sum();
                        want.push(v as f32);
                    }
                }
            }
        }
        for isa in Isa::available() {
            let mut got = vec![f32::NAN; total * w];
            in_pool(2, || attention_packed(isa, call, &mut got));
            assert_close(&got, &want, 1e-5, isa.name());
        }
    }

    #[test]
    fn pooling_equals_the_naive_one(
        seed in 0u64..1000, lengths in proptest::collection::vec(1usize..20, 1..5), width in 1usize..50,
    ) {
        let mut cu = vec![0u32];
        lengths.iter().for_each(|l| cu.push(cu[cu.len() - 1] + *l as u32));
        let hidden = values(seed, cu[cu.len() - 1] as usize * width);
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Max, Pooling::LastToken] {
            for normalize in [false, true] {
                let mut want = vec![];
                for pair in cu.windows(2) {
                    let rows: Vec<&[f32]> =
                        hidden[pair[0] as usize * width..pair[1] as usize * width].chunks(width).collect();
                    let column = |c: usize| rows.iter().map(move |r| r[c] as f64);
                    let row: Vec<f64> = (0..width).map(|c| match pooling {
                        Pooling::Mean => column(c).sum::<f64>() / rows.len() as f64,
                        Pooling::Cls => rows[0][c] as f64,
                        Pooling::LastToken => rows[rows.len() - 1][c] as f64,
                        Pooling::Max => column(c).fold(f64::MIN, f64::max),
                    }).collect();
                    let norm = if normalize { row.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12) } else { 1.0 };
                    want.extend(row.into_iter().map(|v| (v / norm) as f32));
                }
                for isa in Isa::available() {
                    let mut got = vec![f32::NAN; want.len()];
                    pool(isa, &hidden, &cu, (pooling, normalize), &mut got);
                    assert_close(&got, &want, 1e-5, isa.name());
                }
            }
        }
    }
}

#[test]
fn a_nan_row_stays_alone() {
    let mut layer = LayerFixture::new(7, 40, 48, 48, &[4, 8]);
    let clean = layer.run(Isa::current(), Activation::Gelu, true);
    layer.x[13 * 48 + 5] = f32::NAN;
    let dirty = layer.run(Isa::current(), Activation::Gelu, true);
    for row in 0..40 {
        let (c, d) = (&clean[row * 48..][..48], &dirty[row * 48..][..48]);
        if row == 13 {
            assert!(d.iter().all(|v| v.is_nan()));
        } else {
            assert_eq!(c, d, "row {row}");
        }
    }
}

#[test]
fn embedding_adds_word_and_position_and_normalises() {
    let (width, ids, positions) = (20, [3u32, 0, 5], [0u32, 1, 2]);
    let (words, table) = (values(1, 6 * width), values(2, 4 * width));
    let (gamma, beta) = (values(3, width), values(4, width));
    for isa in Isa::available() {
        let mut got = vec![f32::NAN; 3 * width];
        let norm = NormParams { gamma: &gamma, beta: &beta, epsilon: 1e-12 };
        let call =
            EmbeddingCall { ids: &ids, positions: &positions, words: &words, position_table: &table, norm };
        embed_norm(isa, call, &mut got);
        let mut want = vec![];
        for t in 0..3 {
            let row: Vec<f64> = (0..width)
                .map(|c| {
                    words[ids[t] as usize * width + c] as f64
                        + table[positions[t] as usize * width + c] as f64
                })
                .collect();
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
            want.extend(
                (0..width)
                    .map(|c| ((row[c] - mean) / variance.sqrt() * gamma[c] as f64 + beta[c] as f64) as f32),
            );
        }
        assert_close(&got, &want, 1e-5, isa.name());
    }
}
