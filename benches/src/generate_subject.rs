//! Our side of the comparison of text generators: a language model in one number format through the engine's runner.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use polylora_adapters::LoadedAdapter;
use polylora_engine::Decoding;
use polylora_kernels::device::{DTypeSpec, DeviceSpec, open};
use polylora_models::{DecoderSize, LanguageModel};

use crate::decoder_folder::load_decoder_adapters;
use crate::{BenchError, DecoderFolder, GemmPeak, Passes};

/// Steps at each length, of which the median counts.
const STEPS: usize = 9;

/// Texts that are continued together.
#[derive(Clone, Debug)]
pub struct GenerateCase {
    /// Their prompts, all of one length.
    pub prompts: Vec<Vec<u32>>,
    /// Tokens that are drawn for each, two at least.
    pub new: usize,
}

/// Which adapters the texts go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Through {
    /// None.
    Base,
    /// Text after text another one, of this rank.
    Rank(usize),
}

/// What one run of a case took.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateTimes {
    /// Milliseconds to the first token of all texts.
    pub first_ms: f64,
    /// Milliseconds of each step after it, the mean.
    pub step_ms: f64,
    /// Milliseconds of the fastest of them, where each was timed.
    pub fastest_step_ms: Option<f64>,
    /// The tokens that were drawn.
    pub tokens: Vec<Vec<u32>>,
}

/// A model in one number format.
pub struct GenerateSubject {
    /// The format.
    pub dtype: DTypeSpec,
    /// What it must read and compute.
    pub size: DecoderSize,
    /// The product of matrices in this format.
    pub peak: GemmPeak,
    decoding: Decoding,
    /// By rank, the numbers of its adapters.
    ranks: Vec<(usize, Vec<usize>)>,
}

/// What a subject is loaded with.
#[derive(Clone, Debug)]
pub struct GenerateSetup<'a> {
    /// The model.
    pub model: &'a DecoderFolder,
    /// By rank, a folder of adapters and their names.
    pub adapters: &'a [(usize, &'a Path, &'a [String])],
    /// Tokens of the longest text.
    pub longest: usize,
    /// Tokens of the largest batch.
    pub tokens: usize,
    /// Its texts.
    pub texts: usize,
}

impl GenerateSubject {
    /// Loads it on the CPU.
    ///
    /// # Errors
    /// When model or adapters are refused, or there is no memory for them.
    pub fn load(setup: &GenerateSetup<'_>, dtype: DTypeSpec) -> Result<Self, BenchError> {
        let on = open(DeviceSpec::Cpu, dtype)?;
        let model = Arc::new(LanguageModel::load(&setup.model.dir, &on, Some(setup.longest))?);
        let (mut all, mut ranks): (Vec<LoadedAdapter>, Vec<(usize, Vec<usize>)>) = (vec![], vec![]);
        for (rank, folder, names) in setup.adapters {
            let loaded = load_decoder_adapters(&model, folder, names)?;
            ranks.push((*rank, (all.len()..all.len() + loaded.len()).collect()));
            all.extend(loaded);
        }
        let decoding = Decoding::new(&model, setup.tokens.max(setup.longest), setup.texts, &all)?;
        let size = DecoderSize::new(&setup.model.config, &on);
        Ok(Self { dtype, size, peak: GemmPeak::new(&on), decoding, ranks })
    }

    /// Reads the prompts and continues them.
    ///
    /// # Errors
    /// The runner's.
    pub fn generate(&mut self, case: &GenerateCase, through: Through) -> Result<GenerateTimes, BenchError> {
        let texts = case.prompts.len();
        let through = match through {
            Through::Base => vec![None; texts],
            Through::Rank(rank) => {
                let (_, own) = self.ranks.iter().find(|(r, _)| *r == rank).expect("adapters of that rank");
                (0..texts).map(|text| Some(own[text % own.len()])).collect()
            }
        };
        let began = Instant::now();
        let mut streams = self.decoding.begin(&case.prompts, &through, case.new);
        self.decoding.read(&mut streams)?;
        let first = began.elapsed();
        let (mut before, mut fastest) = (first, Duration::MAX);
        for _ in 1..case.new {
            self.decoding.step(&mut streams)?;
            let now = began.elapsed();
            (before, fastest) = (now, fastest.min(now - before));
        }
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Ok(GenerateTimes {
            first_ms: ms(first),
            step_ms: ms(before - first) / (case.new.max(2) - 1) as f64,
            fastest_step_ms: (case.new > 1).then(|| ms(fastest)),
            tokens: streams.drawn(),
        })
    }

    /// Milliseconds of a step of one text at each of `lengths`, which go no further than its prompt.
    ///
    /// # Errors
    /// The runner's.
    pub fn steps_at(&mut self, prompt: &[u32], lengths: &[usize]) -> Result<Vec<f64>, BenchError> {
        let mut streams = self.decoding.begin(&[prompt.to_vec()], &[None], 1);
        self.decoding.read(&mut streams)?;
        let mut times = vec![vec![]; lengths.len()];
        for round in 0..=STEPS {
            for (times, length) in times.iter_mut().zip(lengths) {
                streams.rewind(*length);
                let began = Instant::now();
                self.decoding.step(&mut streams)?;
                // The first round is not counted.
                if round > 0 {
                    times.push(began.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        Ok(times.into_iter().map(|times| Passes::of(times).median()).collect())
    }
}
