//! The figures of a language model, as JSON or as Markdown that can be pasted into an issue.

use std::fmt;

use polylora_kernels::device::OpenDevice;
use polylora_models::{DecoderConfig, DecoderSize};
use serde::Serialize;

use super::machine::Machine;
use super::options::BenchDtype;
use super::report::digits;
use super::timing::{Rates, Times};
use crate::assemble::count;

/// Everything that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LanguageReport {
    /// Version of the program.
    pub version: &'static str,
    /// The machine.
    pub machine: Machine,
    /// The model.
    pub shape: ShapeReport,
    /// Adapters that texts went round.
    pub adapters: usize,
    /// Their rank.
    pub rank: usize,
    /// Reading memory, in GB/s.
    pub bandwidth: Rates,
    /// By number format.
    pub dtypes: Vec<LanguageDtypeReport>,
}

/// The shape that was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShapeReport {
    /// Where its config.json is.
    pub config: String,
    /// The family.
    pub family: &'static str,
    /// Weights, each once.
    pub parameters: u64,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub inner: usize,
    /// Heads of queries.
    pub query_heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_width: usize,
    /// Tokens.
    pub vocabulary: usize,
}

/// One number format.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LanguageDtypeReport {
    /// The format.
    pub dtype: BenchDtype,
    /// The instructions that multiply.
    pub path: &'static str,
    /// The dtype between layers.
    pub activations: &'static str,
    /// The product of matrices, in GFLOP/s or GOP/s.
    pub peak: Rates,
    /// Bytes of the weights as they are held.
    pub held_bytes: f64,
    /// Bytes of the weights that every step reads.
    pub step_bytes: f64,
    /// Operations of the shorter and of the longer prompt.
    pub prompt_flops: [f64; 2],
    /// The times.
    pub times: LanguageFigures,
}

/// Times of passes; none where the model takes no texts so long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LanguageFigures {
    /// A prompt of 128 tokens.
    pub prompt: Option<Times>,
    /// A prompt of 512 tokens.
    pub long_prompt: Option<Times>,
    /// A step of one text after 128 tokens.
    pub one: Option<Times>,
    /// A step of eight texts after 128 tokens each.
    pub eight: Option<Times>,
    /// The same through adapters.
    pub adapted: Option<Times>,
    /// A step of one text after 64 tokens.
    pub short: Option<Times>,
    /// A step of one text after 1,024 tokens.
    pub long: Option<Times>,
}

impl ShapeReport {
    /// Of a config.json.
    pub fn new(config: String, shape: &DecoderConfig) -> Self {
        Self {
            config,
            family: shape.family.name(),
            parameters: shape.parameters(),
            layers: shape.num_hidden_layers,
            hidden: shape.hidden_size,
            inner: shape.intermediate_size,
            query_heads: shape.heads.query,
            kv_heads: shape.heads.kv,
            head_width: shape.heads.width,
            vocabulary: shape.vocab_size,
        }
    }
}

impl LanguageFigures {
    /// With what they are held against.
    pub fn into_report(
        self,
        dtype: BenchDtype,
        on: &OpenDevice,
        size: &DecoderSize,
        peak: Rates,
    ) -> LanguageDtypeReport {
        LanguageDtypeReport {
            dtype,
            path: on.product_path().unwrap_or_default(),
            activations: on.activations_name(),
            peak,
            held_bytes: size.held_bytes(),
            step_bytes: size.step_bytes(),
            prompt_flops: [128, 512].map(|tokens| size.prompt_flops(tokens)),
            times: self,
        }
    }
}

impl LanguageReport {
    /// One JSON object.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts and numbers under fixed names are JSON")
    }

    fn write_prompts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| dtype | weights GB | product GFLOP/s | prompt of 128, tokens/s | of the product | of 512 | of the product |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|---:|---:|")?;
        for report in &self.dtypes {
            let LanguageDtypeReport { dtype, held_bytes, peak, prompt_flops, times, .. } = report;
            let prompts =
                [(128.0, times.prompt, prompt_flops[0]), (512.0, times.long_prompt, prompt_flops[1])];
            let cells = prompts.map(|(tokens, times, flops)| {
                let share = |t: Times| percent(flops / t.median / (peak.all_threads * 1e9));
                format!("{} | {}", cell(times, |t| digits(tokens / t.median)), cell(times, share))
            });
            let (held, peak) = (digits(held_bytes / 1e9), digits(peak.all_threads));
            writeln!(f, "| {dtype} | {held} | {peak} | {} |", cells.join(" | "))?;
        }
        writeln!(f)
    }

    fn write_steps(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let through = format!("8 texts, {} of rank {}", count(self.adapters, "adapter"), self.rank);
        writeln!(
            f,
            "| dtype | a step reads GB | 1 text, tokens/s | of the floor | 8 texts | {through} | more time | ms a token at 64 | \
             at 1024 |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|---:|---:|---:|---:|")?;
        for LanguageDtypeReport { dtype, step_bytes, times, .. } in &self.dtypes {
            let floor = step_bytes / (self.bandwidth.all_threads * 1e9);
            let cells = [
                digits(step_bytes / 1e9),
                cell(times.one, |t| digits(1.0 / t.median)),
                cell(times.one, |t| percent(floor / t.median)),
                cell(times.eight, |t| digits(8.0 / t.median)),
                cell(times.adapted, |t| digits(8.0 / t.median)),
                cell(times.adapted.zip(times.eight), |(with, without)| {
                    percent(with.median / without.median - 1.0)
                }),
                cell(times.short, |t| digits(t.median * 1e3)),
                cell(times.long, |t| digits(t.median * 1e3)),
            ];
            writeln!(f, "| {dtype} | {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

impl fmt::Display for LanguageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShapeReport { config, family, parameters, layers, hidden, inner, .. } = &self.shape;
        let ShapeReport { query_heads, kv_heads, head_width, vocabulary, .. } = self.shape;
        writeln!(f, "polylora {} on {}  ", self.version, self.machine)?;
        writeln!(
            f,
            "{config}, random weights: {family}, {:.0} M parameters, {}, width {hidden}, feed-forward {inner}, heads \
             {query_heads}/{kv_heads} of {head_width}, vocabulary {vocabulary}\n",
            *parameters as f64 / 1e6,
            count(*layers, "layer"),
        )?;
        let Rates { one_thread, all_threads } = self.bandwidth;
        let threads = count(self.machine.threads, "thread");
        let (one, all) = (digits(one_thread), digits(all_threads));
        writeln!(f, "Memory is read at {all} GB/s by {threads}, at {one} GB/s by one.\n")?;
        self.write_prompts(f)?;
        self.write_steps(f)
    }
}

fn cell<T>(of: Option<T>, shown: impl FnOnce(T) -> String) -> String {
    of.map_or_else(|| "-".to_owned(), shown)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> LanguageReport {
        let machine = Machine {
            cpu: "A CPU".into(),
            cores: 2,
            system: "linux x86_64".into(),
            isa: "avx512",
            threads: 2,
            load: None,
        };
        let shape = ShapeReport {
            config: "config.json".into(),
            family: "llama",
            parameters: 386_542_464,
            layers: 24,
            hidden: 896,
            inner: 4864,
            query_heads: 14,
            kv_heads: 2,
            head_width: 64,
            vocabulary: 32_000,
        };
        let times = |ms: f64| Some(Times { median: ms / 1e3, fastest: ms / 1e3 });
        let times = LanguageFigures {
            prompt: times(80.0),
            long_prompt: times(320.0),
            one: times(20.0),
            eight: times(25.0),
            adapted: times(28.0),
            short: times(19.0),
            long: None,
        };
        let bf16 = LanguageDtypeReport {
            dtype: BenchDtype::Bf16,
            path: "AVX-512 BF16",
            activations: "bf16",
            peak: Rates { one_thread: 500.0, all_threads: 1000.0 },
            held_bytes: 0.83e9,
            step_bytes: 0.773e9,
            prompt_flops: [40e9, 160e9],
            times,
        };
        let bandwidth = Rates { one_thread: 30.0, all_threads: 50.0 };
        LanguageReport {
            version: "1.2.3",
            machine,
            shape,
            adapters: 8,
            rank: 16,
            bandwidth,
            dtypes: vec![bf16],
        }
    }

    #[test]
    fn the_tables_are_markdown() {
        insta::assert_snapshot!(report().to_string(), @r"
        polylora 1.2.3 on A CPU, 2 cores, linux x86_64, avx512, 2 threads  
        config.json, random weights: llama, 387 M parameters, 24 layers, width 896, feed-forward 4864, heads 14/2 of 64, vocabulary 32000

        Memory is read at 50.0 GB/s by 2 threads, at 30.0 GB/s by one.

        | dtype | weights GB | product GFLOP/s | prompt of 128, tokens/s | of the product | of 512 | of the product |
        |---|---:|---:|---:|---:|---:|---:|
        | bf16 | 0.83 | 1000 | 1600 | 50 % | 1600 | 50 % |

        | dtype | a step reads GB | 1 text, tokens/s | of the floor | 8 texts | 8 texts, 8 adapters of rank 16 | more time | ms a token at 64 | at 1024 |
        |---|---:|---:|---:|---:|---:|---:|---:|---:|
        | bf16 | 0.77 | 50.0 | 77 % | 320 | 286 | 12 % | 19.0 | - |
        ");
    }

    #[test]
    fn json_has_every_figure_under_its_name() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json()).expect("JSON");
        assert_eq!(json["shape"]["family"], "llama");
        assert_eq!(json["dtypes"][0]["times"]["one"]["median"], 0.02);
        assert_eq!(json["dtypes"][0]["times"]["long"], serde_json::Value::Null);
    }
}
