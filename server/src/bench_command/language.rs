//! What a language model of some shape makes of this machine: random weights, no files beside its config.json.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use polylora_adapters::LoadedAdapter;
use polylora_engine::{Decoding, RunError};
use polylora_kernels::team;
use polylora_models::{DecoderConfig, DecoderSize, LanguageModel};

use super::language_report::{LanguageFigures, LanguageReport, ShapeReport};
use super::options::BenchDtype;
use super::random_adapters::random_adapters;
use super::timing::{Times, in_turn};
use super::{BenchCommandError, bandwidth, machine, open_cpu, product};
use crate::assemble::{AssembleError, set_threads};
use crate::settings::Settings;

/// Texts of the larger batch.
const BATCH: usize = 8;
/// Tokens of a prompt that is continued, and of the shorter one that is timed.
const PROMPT: usize = 128;
/// Tokens of the longer prompt.
const LONG_PROMPT: usize = 512;
/// Lengths that a step is timed at.
const SHORT_CONTEXT: usize = 64;
const LONG_CONTEXT: usize = 1024;
/// Names the weights.
const SEED: u64 = 1;

/// What is measured of a language model, and how it is printed.
#[derive(Clone, Debug)]
pub struct LanguageJob {
    /// Its config.json.
    pub config: PathBuf,
    /// Number formats.
    pub dtypes: Vec<BenchDtype>,
    /// Adapters that the texts of a batch go round; none are measured where this is 0.
    pub adapters: usize,
    /// Their rank.
    pub rank: usize,
    /// Time for each figure.
    pub budget: Duration,
    /// As JSON rather than Markdown.
    pub json: bool,
}

/// Measures on the CPU with as many threads as `settings` name.
///
/// # Errors
/// [`BenchCommandError`].
pub fn measure(settings: &Settings, job: &LanguageJob) -> Result<LanguageReport, BenchCommandError> {
    set_threads(settings)?;
    let path = job.config.display();
    let config = DecoderConfig::read_file(&job.config);
    let config = config.map_err(AssembleError::at(format!("reading `{path}`")))?;
    let machine = machine::describe(team::threads());
    tracing::info!("measuring reads of memory");
    let bandwidth = bandwidth::measure(job.budget);
    let mut dtypes = vec![];
    for dtype in &job.dtypes {
        let on = open_cpu(*dtype)?;
        tracing::info!("measuring products of matrices in {dtype}");
        let peak = product::measure(&on, job.budget);
        tracing::info!("making weights in {dtype}");
        let model = LanguageModel::with_random_weights(config.clone(), &on, LONG_CONTEXT + 1, SEED);
        let model = model.map_err(AssembleError::at(format!("making a model of `{path}`")))?;
        let adapters = random_adapters(&model, job.adapters, job.rank);
        let mut subject = Subject::new(Arc::new(model), adapters, job.budget)?;
        let size = DecoderSize::new(&config, &on);
        tracing::info!("measuring {dtype}");
        let figures = subject.measure();
        let figures = figures.map_err(AssembleError::at(format!("measuring {dtype}")))?;
        dtypes.push(figures.into_report(*dtype, &on, &size, peak));
    }
    Ok(LanguageReport {
        version: env!("CARGO_PKG_VERSION"),
        machine,
        shape: ShapeReport::new(path.to_string(), &config),
        adapters: job.adapters,
        rank: job.rank,
        bandwidth,
        dtypes,
    })
}

struct Subject {
    decoding: Decoding,
    adapters: usize,
    /// Tokens that a text may have.
    context: usize,
    vocabulary: usize,
    budget: Duration,
}

impl Subject {
    fn new(
        model: Arc<LanguageModel>,
        adapters: Vec<LoadedAdapter>,
        budget: Duration,
    ) -> Result<Self, BenchCommandError> {
        let tokens = (BATCH * (PROMPT + 1)).max(LONG_CONTEXT + 1);
        let decoding = Decoding::new(&model, tokens, BATCH, &adapters);
        let decoding = decoding.map_err(AssembleError::at("making room for keys and values"))?;
        let (context, vocabulary) = (model.context(), model.vocab_size());
        Ok(Self { decoding, adapters: adapters.len(), context, vocabulary, budget })
    }

    fn measure(&mut self) -> Result<LanguageFigures, RunError> {
        let base = |batch: usize| vec![None; batch];
        let [prompt, long_prompt] = [self.prompt(PROMPT)?, self.prompt(LONG_PROMPT)?];
        let one = self.steps(&base(1), PROMPT)?;
        let mut adapted = None;
        let eight = if self.adapters == 0 {
            self.steps(&base(BATCH), PROMPT)?
        } else {
            let mixed: Vec<_> = (0..BATCH).map(|text| Some(text % self.adapters)).collect();
            let [alone, mixed] = self.steps_in_turn(&base(BATCH), &mixed)?;
            adapted = mixed;
            alone
        };
        let [short, long] = [self.steps(&base(1), SHORT_CONTEXT)?, self.steps(&base(1), LONG_CONTEXT)?];
        Ok(LanguageFigures { prompt, long_prompt, one, eight, adapted, short, long })
    }

    /// Times of reading a prompt of so many tokens; none where the model takes no such text.
    fn prompt(&mut self, tokens: usize) -> Result<Option<Times>, RunError> {
        if tokens >= self.context {
            return Ok(None);
        }
        let prompts = self.prompts(1, tokens);
        let mut failed = Ok(());
        let times = Times::of(self.budget, || {
            let mut streams = self.decoding.begin(&prompts, &[None], 0);
            keep(&mut failed, self.decoding.read(&mut streams));
        });
        failed.map(|()| Some(times))
    }

    /// Times of a step with texts of `context` tokens.
    fn steps(&mut self, through: &[Option<usize>], context: usize) -> Result<Option<Times>, RunError> {
        if context >= self.context {
            return Ok(None);
        }
        let mut streams = self.decoding.begin(&self.prompts(through.len(), context), through, 1);
        self.decoding.read(&mut streams)?;
        let mut failed = Ok(());
        let times = Times::of(self.budget, || {
            streams.rewind(context);
            keep(&mut failed, self.decoding.step(&mut streams));
        });
        failed.map(|()| Some(times))
    }

    /// The same for two ways in turn, at the length of the prompts; they share the cache, so that only times are of worth.
    fn steps_in_turn(
        &mut self,
        first: &[Option<usize>],
        second: &[Option<usize>],
    ) -> Result<[Option<Times>; 2], RunError> {
        if PROMPT >= self.context {
            return Ok([None; 2]);
        }
        let prompts = self.prompts(BATCH, PROMPT);
        let mut both = [first, second].map(|through| self.decoding.begin(&prompts, through, 1));
        for streams in &mut both {
            self.decoding.read(streams)?;
        }
        let mut failed = Ok(());
        let times = in_turn(2 * self.budget, |turn| {
            both[turn].rewind(PROMPT);
            keep(&mut failed, self.decoding.step(&mut both[turn]));
        });
        failed.map(|()| times.map(Some))
    }

    /// Prompts over the whole vocabulary.
    fn prompts(&self, count: usize, tokens: usize) -> Vec<Vec<u32>> {
        let mut state = 1u64;
        let mut id = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % self.vocabulary as u64) as u32
        };
        (0..count).map(|_| (0..tokens).map(|_| id()).collect()).collect()
    }
}

/// Keeps the first failure.
fn keep(kept: &mut Result<(), RunError>, found: Result<(), RunError>) {
    if kept.is_ok() {
        *kept = found;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn figures(family: &str, dtype: BenchDtype, positions: usize, adapters: usize) -> LanguageFigures {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("some.json");
        let shape = json!({
            "model_type": family, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300,
            "max_position_embeddings": positions,
        });
        fs::write(&path, shape.to_string()).expect("written");
        let config = DecoderConfig::read_file(&path).expect("a shape");
        let on = open_cpu(dtype).expect("a device");
        let model = LanguageModel::with_random_weights(config, &on, LONG_CONTEXT + 1, SEED).expect("a model");
        let adapters = random_adapters(&model, adapters, 2);
        let mut subject = Subject::new(Arc::new(model), adapters, Duration::ZERO).expect("a subject");
        subject.measure().expect("figures")
    }

    #[test]
    fn every_family_and_every_format_is_measured_without_files() {
        let families = ["llama", "mistral", "qwen2", "qwen3"].map(|family| (family, BenchDtype::F32));
        let formats = [BenchDtype::Bf16, BenchDtype::Int8].map(|dtype| ("llama", dtype));
        for (family, dtype) in families.into_iter().chain(formats) {
            let found = figures(family, dtype, 2048, 3);
            let all = [found.prompt, found.long_prompt, found.one, found.eight, found.adapted, found.short];
            assert!(all.iter().all(Option::is_some) && found.long.is_some(), "{family} {dtype}: {found:?}");
        }
    }

    #[test]
    fn what_the_model_is_too_short_for_is_left_out() {
        let found = figures("llama", BenchDtype::F32, 256, 0);
        assert!(found.one.is_some() && found.eight.is_some() && found.prompt.is_some());
        assert_eq!((found.long_prompt, found.adapted, found.long), (None, None, None));
    }
}
