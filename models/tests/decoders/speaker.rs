//! A model with its adapters and a cache: steps as an engine makes them.

use std::path::Path;

use polylora_adapters::LoadedAdapter;
use polylora_kernels::device::{OpenDevice, is_cpu};
use polylora_kernels::{AdapterMemory, LoraBatch, PlacedAdapter, segments_of};
use polylora_models::{KvCache, LanguageModel, PagedRow, WantedLogits};

use crate::fixture::{adapters, llm};

pub const BLOCK_SIZE: usize = 4;

/// Blocks that one sequence may have.
const BLOCKS: usize = 24;

/// Sequences that have blocks.
const SEQUENCES: usize = 12;

pub struct Speaker {
    pub model: LanguageModel,
    names: Vec<String>,
    adapters: Vec<LoadedAdapter>,
}

/// The new tokens of a sequence.
pub struct Turn<'a> {
    pub sequence: usize,
    pub tokens: &'a [u32],
    pub context: usize,
    pub adapter: Option<usize>,
    pub logits: WantedLogits,
}

impl Speaker {
    pub fn new(family: &str, on: &OpenDevice) -> Self {
        Self::of(&llm(family), on)
    }

    pub fn of(folder: &Path, on: &OpenDevice) -> Self {
        let model = LanguageModel::load(&folder.join("model"), on, None).expect("loads");
        let (names, adapters) = adapters(folder, &model).into_iter().unzip();
        Self { model, names, adapters }
    }

    /// The adapter of that name; `None` for the base.
    pub fn adapter(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }

    pub fn cache(&self) -> KvCache {
        self.model.new_cache(BLOCKS * SEQUENCES, BLOCK_SIZE).expect("memory")
    }

    /// The blocks of a sequence: none beside another of its own.
    pub fn blocks(sequence: usize) -> Vec<u32> {
        assert!(sequence < SEQUENCES);
        (0..BLOCKS).map(|i| (i * SEQUENCES + sequence) as u32).collect()
    }

    /// One step of several sequences: the wanted logits, row by row.
    pub fn step(&self, turns: &[Turn<'_>], cache: &mut KvCache) -> Vec<Vec<f32>> {
        self.step_in(turns, cache, Self::blocks)
    }

    /// The same with blocks of the caller's choice.
    pub fn step_in(
        &self,
        turns: &[Turn<'_>],
        cache: &mut KvCache,
        blocks: impl Fn(usize) -> Vec<u32>,
    ) -> Vec<Vec<f32>> {
        let tables: Vec<Vec<u32>> = turns.iter().map(|turn| blocks(turn.sequence)).collect();
        let rows = turns.iter().zip(&tables).map(|(turn, blocks)| {
            let Turn { tokens, context, logits, .. } = *turn;
            PagedRow { tokens, context, blocks, logits }
        });
        let rows: Vec<_> = rows.collect();
        let segments = segments_of(turns.iter().map(|turn| (turn.tokens.len(), turn.adapter)));
        let (placed, memory) = self.placed();
        let lora = LoraBatch::new(segments, placed, memory);
        let logits = self.model.forward(&rows, cache, &lora).expect("fits");
        assert_eq!(logits.dims()[1], self.model.vocab_size());
        let values: Vec<f32> = logits.into_data().iter().collect();
        values.chunks_exact(self.model.vocab_size()).map(<[f32]>::to_vec).collect()
    }

    /// The last logits of a prompt that comes at once.
    pub fn last_logits(&self, prompt: &[u32], adapter: Option<usize>) -> Vec<f32> {
        let turn = Turn { sequence: 0, tokens: prompt, context: 0, adapter, logits: WantedLogits::Last };
        self.step(&[turn], &mut self.cache()).remove(0)
    }

    /// The most likely tokens after each prompt and their logprobs, all sequences side by side.
    pub fn greedy(&self, prompts: &[&[u32]], adapter: Option<usize>, steps: usize) -> Vec<Vec<(u32, f32)>> {
        let mut cache = self.cache();
        let mut spoken = vec![vec![]; prompts.len()];
        let mut next: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.to_vec()).collect();
        let mut context = vec![0; prompts.len()];
        for _ in 0..steps {
            let turns = next.iter().enumerate().map(|(sequence, tokens)| {
                let (context, logits) = (context[sequence], WantedLogits::Last);
                Turn { sequence, tokens, context, adapter, logits }
            });
            let logits = self.step(&turns.collect::<Vec<_>>(), &mut cache);
            for (sequence, logits) in logits.iter().enumerate() {
                context[sequence] += next[sequence].len();
                let token = most_likely(logits);
                spoken[sequence].push((token, logprob(logits, token)));
                next[sequence] = vec![token];
            }
        }
        spoken
    }

    fn placed(&self) -> (Vec<PlacedAdapter>, AdapterMemory) {
        let mut placed = vec![];
        let mut end = 0;
        for LoadedAdapter { extent, .. } in &self.adapters {
            placed.push(PlacedAdapter { extent: extent.clone(), offset: end });
            end += extent.layout().len();
        }
        let mut memory = match is_cpu(self.model.device()) {
            true => AdapterMemory::HostAlias,
            false => AdapterMemory::arena(self.model.device(), self.model.dtype(), end),
        };
        for one in &placed {
            memory.store(one.offset, &one.extent);
        }
        (placed, memory)
    }
}

pub fn most_likely(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("logits").0 as u32
}

pub fn logprob(logits: &[f32], token: u32) -> f32 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
    (f64::from(logits[token as usize] - highest) - total.ln()) as f32
}

/// The largest difference as a share of the largest of `expected`.
pub fn error(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().flatten().fold(0f32, |most, value| most.max(value.abs()));
    let mut worst = 0f32;
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!(f.is_finite());
            worst = worst.max((f - e).abs() / largest);
        }
    }
    worst
}
