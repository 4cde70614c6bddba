//! The figures, as JSON or as Markdown that can be pasted into an issue.

use std::fmt;

use polylora_models::EncoderSize;
use serde::Serialize;

use super::agreement::Agreement;
use super::machine::Machine;
use super::options::BenchDtype;
use super::speed::Speed;
use super::timing::Rates;
use crate::assemble::count;

/// Everything that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Version of the program.
    pub version: &'static str,
    /// The machine.
    pub machine: Machine,
    /// The model.
    pub model: ModelReport,
    /// Reading memory, in GB/s.
    pub bandwidth: Rates,
    /// By number format.
    pub dtypes: Vec<DtypeReport>,
}

/// The model that was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelReport {
    /// Its name.
    pub name: String,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub inner: usize,
}

/// One number format.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DtypeReport {
    /// The format.
    pub dtype: BenchDtype,
    /// The instructions that multiply.
    pub path: &'static str,
    /// The dtype between layers.
    pub activations: &'static str,
    /// The product of matrices, in GFLOP/s or GOP/s.
    pub peak: Rates,
    /// How near the embeddings are to those of f32.
    pub agreement: Agreement,
    /// By batch.
    pub speeds: Vec<Speed>,
}

impl ModelReport {
    /// A model of a name and a size.
    pub fn new(name: String, EncoderSize { layers, hidden, inner }: EncoderSize) -> Self {
        Self { name, layers, hidden, inner }
    }
}

impl Report {
    /// One JSON object.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts and numbers under fixed names are JSON")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ModelReport { name, layers, hidden, inner } = &self.model;
        writeln!(f, "polylora {} on {}  ", self.version, self.machine)?;
        writeln!(f, "{name}: {}, width {hidden}, feed-forward {inner}\n", count(*layers, "layer"))?;
        self.write_machine(f)?;
        self.write_agreement(f)?;
        self.write_speeds(f)
    }
}

impl Report {
    fn write_machine(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = self.machine.threads;
        let columns = if threads > 1 { vec![1, threads] } else { vec![1] };
        let heads: Vec<String> = columns.iter().map(|threads| count(*threads, "thread")).collect();
        writeln!(f, "| | {} |", heads.join(" | "))?;
        writeln!(f, "|---|{}", "---:|".repeat(columns.len()))?;
        let products = self.dtypes.iter().map(|dtype| {
            let unit = if dtype.dtype == BenchDtype::Int8 { "GOP/s" } else { "GFLOP/s" };
            (format!("{} product by {}", dtype.dtype, dtype.path), dtype.peak, unit)
        });
        for (what, rates, unit) in products.chain([("memory, read".to_owned(), self.bandwidth, "GB/s")]) {
            write!(f, "| {what} | {} {unit} |", digits(rates.one_thread))?;
            if threads > 1 {
                write!(f, " {} {unit} |", digits(rates.all_threads))?;
            }
            writeln!(f)?;
        }
        writeln!(f)
    }

    fn write_agreement(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| dtype | activations | lowest cosine to f32 | mean | top 1 as in f32 | top 1 right |")?;
        writeln!(f, "|---|---|---:|---:|---:|---:|")?;
        for DtypeReport { dtype, activations, agreement, .. } in &self.dtypes {
            let Agreement { lowest_cosine, mean_cosine, retrieval } = agreement;
            let of = |count: usize| format!("{count} of {}", retrieval.queries);
            let (same, right) = (of(retrieval.same_top_1), of(retrieval.right_top_1));
            let cosines = format!("{lowest_cosine:.6} | {mean_cosine:.6}");
            writeln!(f, "| {dtype} | {activations} | {cosines} | {same} | {right} |")?;
        }
        writeln!(f)
    }

    fn write_speeds(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| dtype | texts | tokens each | median ms | fastest | texts/s | tokens/s | of the floor |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|---:|---:|---:|")?;
        for DtypeReport { dtype, speeds, .. } in &self.dtypes {
            for speed in speeds {
                let Speed { batch, tokens, .. } = speed;
                let rates = [speed.median_ms, speed.fastest_ms, speed.texts_per_s, speed.tokens_per_s];
                let rates = rates.map(digits).join(" | ");
                let share = 100.0 * speed.share_of_floor;
                writeln!(f, "| {dtype} | {batch} | {tokens} | {rates} | {share:.0} % |")?;
            }
        }
        Ok(())
    }
}

/// A number with three significant digits, or all before the point.
pub(super) fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench_command::Retrieval;

    fn report(threads: usize) -> Report {
        let machine = Machine {
            cpu: "A CPU".into(),
            cores: 2,
            system: "linux x86_64".into(),
            isa: "avx512",
            threads,
            load: Some(0.25),
        };
        let retrieval = Retrieval { queries: 16, same_top_1: 16, right_top_1: 15 };
        let speed = Speed {
            batch: 10,
            tokens: 16,
            median_ms: 12.345,
            fastest_ms: 9.5,
            texts_per_s: 810.04,
            tokens_per_s: 12_960.7,
            share_of_floor: 0.876,
        };
        let int8 = DtypeReport {
            dtype: BenchDtype::Int8,
            path: "AVX-512 VNNI",
            activations: "bf16",
            peak: Rates { one_thread: 512.4, all_threads: 1000.0 },
            agreement: Agreement { lowest_cosine: 0.991_234, mean_cosine: 0.995, retrieval },
            speeds: vec![speed],
        };
        let model = ModelReport { name: "mini".into(), layers: 6, hidden: 384, inner: 1536 };
        let bandwidth = Rates { one_thread: 9.876, all_threads: 18.76 };
        Report { version: "1.2.3", machine, model, bandwidth, dtypes: vec![int8] }
    }

    #[test]
    fn the_tables_are_markdown() {
        insta::assert_snapshot!(report(2).to_string(), @r"
        polylora 1.2.3 on A CPU, 2 cores, linux x86_64, avx512, 2 threads, load before 0.2  
        mini: 6 layers, width 384, feed-forward 1536

        | | 1 thread | 2 threads |
        |---|---:|---:|
        | int8 product by AVX-512 VNNI | 512 GOP/s | 1000 GOP/s |
        | memory, read | 9.88 GB/s | 18.8 GB/s |

        | dtype | activations | lowest cosine to f32 | mean | top 1 as in f32 | top 1 right |
        |---|---|---:|---:|---:|---:|
        | int8 | bf16 | 0.991234 | 0.995000 | 16 of 16 | 15 of 16 |

        | dtype | texts | tokens each | median ms | fastest | texts/s | tokens/s | of the floor |
        |---|---:|---:|---:|---:|---:|---:|---:|
        | int8 | 10 | 16 | 12.3 | 9.50 | 810 | 12961 | 88 % |
        ");
    }

    #[test]
    fn every_row_of_a_table_has_as_many_columns_as_its_head() {
        for threads in [1, 2] {
            let text = report(threads).to_string();
            for table in text.split("\n\n").filter(|part| part.starts_with('|')) {
                let columns: Vec<usize> =
                    table.trim_end().lines().map(|row| row.matches('|').count()).collect();
                assert!(columns.iter().all(|n| *n == columns[0]), "{table}");
            }
        }
    }

    #[test]
    fn json_has_every_figure_under_its_name() {
        let json: serde_json::Value = serde_json::from_str(&report(2).to_json()).expect("JSON");
        assert_eq!(json["machine"]["isa"], "avx512");
        assert_eq!(json["bandwidth"]["all_threads"], 18.76);
        assert_eq!(json["dtypes"][0]["dtype"], "int8");
        assert_eq!(json["dtypes"][0]["agreement"]["retrieval"]["same_top_1"], 16);
        assert_eq!(json["dtypes"][0]["speeds"][0]["tokens_per_s"], 12_960.7);
    }
}
