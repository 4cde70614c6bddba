//! `polylora bench`: what this machine's CPU gives, and what an embedding model or a language model of some shape makes of it in
//! each number format.

mod agreement;
mod bandwidth;
mod language;
mod language_report;
mod machine;
mod options;
mod product;
mod random_adapters;
mod report;
mod speed;
mod timing;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::time::Duration;

use polylora_hub::ModelUse;
use polylora_kernels::device::{DeviceSpec, OpenDevice, open};
use polylora_kernels::team;
use polylora_models::{BertConfig, EmbeddingModel, EncoderSize};

pub use agreement::{Agreement, Retrieval, Sentences};
pub use language::{LanguageJob, measure as measure_language};
pub use language_report::{LanguageDtypeReport, LanguageFigures, LanguageReport, ShapeReport};
pub use options::{BenchDtype, Seconds};
pub use report::{DtypeReport, ModelReport, Report};
pub use speed::Speed;
pub use timing::{Rates, Times};

use crate::assemble::{AssembleError, count, dtype_spec, find_model, set_threads};
use crate::settings::Settings;
use speed::Shape;

/// Most tokens of one batch: what lies between two layers of a wide model still fits into the memory of a laptop.
const MOST_TOKENS: usize = 65_536;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchCommandError {
    /// The device or the model cannot be used.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The model does not take texts of this length.
    #[error("--tokens {tokens} is too long: the model takes texts of 1 to {most} tokens")]
    Tokens {
        /// What was asked for.
        tokens: usize,
        /// The model's limit.
        most: usize,
    },
    /// A batch is larger than any that is measured.
    #[error("--batch {batch} of --tokens {tokens} is too large: a batch may have {MOST_TOKENS} tokens")]
    Batch {
        /// Texts asked for.
        batch: usize,
        /// Tokens of each.
        tokens: usize,
    },
    /// Standard output cannot be written.
    #[error("standard output cannot be written")]
    Write(#[source] io::Error),
}

impl BenchCommandError {
    /// Whether something was asked for that cannot be.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Tokens { .. } | Self::Batch { .. })
    }
}

/// What is measured, and how it is printed.
#[derive(Clone, Debug)]
pub struct BenchJob {
    /// Number formats.
    pub dtypes: Vec<BenchDtype>,
    /// Texts in a batch.
    pub batches: Vec<NonZeroUsize>,
    /// Tokens of a text.
    pub tokens: Vec<NonZeroUsize>,
    /// Time for each figure.
    pub budget: Duration,
    /// As JSON rather than Markdown.
    pub json: bool,
}

/// Measures and prints on standard output; what is being measured is logged.
///
/// # Errors
/// [`BenchCommandError`]. A reader of the output that goes away is none.
pub fn bench(settings: &Settings, job: &BenchJob) -> Result<(), BenchCommandError> {
    let report = measure(settings, job)?;
    print(&if job.json { report.to_json() } else { report.to_string() })
}

/// The same for a language model.
///
/// # Errors
/// As [`bench()`].
pub fn bench_language(settings: &Settings, job: &LanguageJob) -> Result<(), BenchCommandError> {
    let report = measure_language(settings, job)?;
    print(&if job.json { report.to_json() } else { report.to_string() })
}

fn print(text: &str) -> Result<(), BenchCommandError> {
    match writeln!(io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(BenchCommandError::Write),
    }
}

/// Measures on the CPU with the model and the number of threads that `settings` name.
///
/// # Errors
/// [`BenchCommandError`].
pub fn measure(settings: &Settings, job: &BenchJob) -> Result<Report, BenchCommandError> {
    set_threads(settings)?;
    let f32_device = open_cpu(BenchDtype::F32)?;
    let name = settings.embedding_model.needed().map_err(AssembleError::at("choosing the model"))?;
    let (dir, _) = find_model(name, ModelUse::Embedding)?;
    let step = || format!("loading the model `{name}`");
    let config = BertConfig::read(&dir.path).map_err(AssembleError::at(step()))?;
    let load = |on: &OpenDevice| EmbeddingModel::load(&dir.path, on).map_err(AssembleError::at(step()));
    let mut reference = Some(load(&f32_device)?);
    let shapes = shapes(job, reference.as_ref().map_or(0, EmbeddingModel::max_tokens))?;
    let (size, sentences) = (EncoderSize::of(&config), Sentences::builtin());
    let exact = reference.as_ref().map(|model| agreement::embed(model, &sentences)).transpose()?;
    let exact = exact.unwrap_or_default();
    let machine = machine::describe(team::threads());
    tracing::info!("measuring reads of memory");
    let bandwidth = bandwidth::measure(job.budget);
    let mut dtypes = vec![];
    for dtype in &job.dtypes {
        let on = open_cpu(*dtype)?;
        tracing::info!("measuring products of matrices in {dtype}");
        let peak = product::measure(&on, job.budget);
        // The model of the reference serves for its own figures; then it makes place for the others.
        let model = match reference.take_if(|_| *dtype == BenchDtype::F32) {
            Some(model) => model,
            None => load(&on)?,
        };
        let agreement = Agreement::between(&sentences, &exact, &agreement::embed(&model, &sentences)?);
        let mut speeds = vec![];
        for shape in &shapes {
            tracing::info!("measuring {dtype}, {} of {} tokens", count(shape.batch, "text"), shape.tokens);
            let floor = size.pass(&vec![shape.tokens; shape.batch]) / (peak.all_threads * 1e9);
            speeds.push(speed::measure(&model, *shape, floor, job.budget)?);
        }
        dtypes.push(DtypeReport {
            dtype: *dtype,
            path: on.product_path().unwrap_or_default(),
            activations: on.activations_name(),
            peak,
            agreement,
            speeds,
        });
    }
    let model = ModelReport::new(dir.name, size);
    Ok(Report { version: env!("CARGO_PKG_VERSION"), machine, model, bandwidth, dtypes })
}

fn open_cpu(dtype: BenchDtype) -> Result<OpenDevice, AssembleError> {
    open(DeviceSpec::Cpu, dtype_spec(dtype.into())).map_err(AssembleError::at("opening the device `cpu`"))
}

/// Every batch with every length, once it is known that the model takes them.
fn shapes(job: &BenchJob, most: usize) -> Result<Vec<Shape>, BenchCommandError> {
    let mut shapes = vec![];
    for tokens in job.tokens.iter().map(|tokens| tokens.get()) {
        if tokens > most {
            return Err(BenchCommandError::Tokens { tokens, most });
        }
        for batch in job.batches.iter().map(|batch| batch.get()) {
            if batch.checked_mul(tokens).is_none_or(|all| all > MOST_TOKENS) {
                return Err(BenchCommandError::Batch { batch, tokens });
            }
            shapes.push(Shape { batch, tokens });
        }
    }
    Ok(shapes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(batches: &[usize], tokens: &[usize]) -> BenchJob {
        let numbers = |list: &[usize]| list.iter().filter_map(|n| NonZeroUsize::new(*n)).collect();
        let budget = Duration::from_millis(1);
        BenchJob { dtypes: vec![], batches: numbers(batches), tokens: numbers(tokens), budget, json: false }
    }

    #[test]
    fn every_batch_is_measured_at_every_length() {
        let shapes = shapes(&job(&[1, 9], &[3, 4]), 4).expect("shapes");
        let sizes: Vec<_> = shapes.iter().map(|shape| (shape.batch, shape.tokens)).collect();
        assert_eq!(sizes, [(1, 3), (9, 3), (1, 4), (9, 4)]);
    }

    #[test]
    fn what_the_model_or_the_memory_cannot_take_is_a_usage_error_with_its_limit() {
        for (batches, tokens, said) in [
            (&[1][..], &[16, 257][..], "--tokens 257 is too long: the model takes texts of 1 to 256 tokens"),
            (&[1, 300], &[256], "--batch 300 of --tokens 256 is too large: a batch may have 65536 tokens"),
            (&[usize::MAX], &[2], "is too large"),
        ] {
            let error = shapes(&job(batches, tokens), 256).expect_err("refused");
            assert!(error.is_usage() && error.to_string().contains(said), "{error}");
        }
    }
}
