//! Texts that a language model continues greedily, step by step through the runner with nothing around it, no queue, no text, no
//! events: what measurements hold the engine against.

use std::collections::HashMap;
use std::sync::Arc;

use polylora_adapters::LoadedAdapter;
use polylora_generation::{AdapterKey, BlockId, Domain, SequenceId, StepBatch, StepRow};
use polylora_models::LanguageModel;

use super::generation_engine::CPU_STEP_TOKENS;
use super::step_runner::{CausalRunner, StepAdapters, StepOutput, StepRowOutcome, StepRunner};
use crate::adapter_places::LoraRoom;
use crate::runner::RunError;

/// Tokens in a block of keys and values, as `serve` has it.
const BLOCK_SIZE: usize = 16;
/// Bytes of the room for adapters beyond what they take.
const SPARE_BYTES: usize = 1 << 20;

/// A language model with a cache and adapters in place.
pub struct Decoding {
    runner: CausalRunner,
    adapters: StepAdapters,
    domains: Vec<Domain>,
    blocks: usize,
}

/// Texts that go on together. Their keys and values lie in the cache of the [`Decoding`] that began them, until it begins others.
#[derive(Debug)]
pub struct Streams(Vec<Stream>);

#[derive(Debug)]
struct Stream {
    /// The number of its prompt.
    number: usize,
    domain: Domain,
    blocks: Vec<BlockId>,
    /// Tokens whose keys and values are in the cache.
    context: usize,
    /// The most that there ever were: beyond the context they are still there, from before a rewind.
    computed: usize,
    /// Tokens that are to be computed next: what is left of the prompt, then the token that was drawn last.
    pending: Vec<u32>,
    drawn: Vec<u32>,
}

impl Decoding {
    /// With room for so many tokens of all texts together, and for `adapters`.
    ///
    /// # Errors
    /// When there is not so much memory.
    pub fn new(
        model: &Arc<LanguageModel>,
        tokens: usize,
        texts: usize,
        adapters: &[LoadedAdapter],
    ) -> Result<Self, RunError> {
        let blocks = tokens.div_ceil(BLOCK_SIZE) + texts;
        let bytes: usize = adapters.iter().map(|adapter| adapter.extent.bytes()).sum();
        let room = LoraRoom { bytes: 2 * bytes + SPARE_BYTES, adapters: None };
        let key = |adapter: &LoadedAdapter| AdapterKey(adapter.digest.0);
        Ok(Self {
            runner: CausalRunner::new(Arc::clone(model), (blocks, BLOCK_SIZE), room)?,
            adapters: adapters.iter().map(|adapter| (key(adapter), adapter.clone())).collect(),
            domains: adapters.iter().map(|adapter| Domain::Adapter(key(adapter))).collect(),
            blocks,
        })
    }

    /// Begins a text for each prompt, through the adapter of its index, with room for `new` tokens each; nothing is computed.
    ///
    /// # Panics
    /// When there is no such adapter, not one of them for each prompt, or no room.
    pub fn begin(&self, prompts: &[Vec<u32>], through: &[Option<usize>], new: usize) -> Streams {
        assert_eq!(prompts.len(), through.len(), "one adapter or none for each prompt");
        let mut free = (0..self.blocks as u32).map(BlockId);
        // Rows of one adapter are neighbours, the base's come first.
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|number| through[*number]);
        let stream = |number: usize| {
            let needed = (prompts[number].len() + new).div_ceil(BLOCK_SIZE);
            let blocks: Vec<BlockId> = free.by_ref().take(needed).collect();
            assert_eq!(blocks.len(), needed, "the cache has too few blocks");
            Stream {
                number,
                domain: through[number].map_or(Domain::Base, |adapter| self.domains[adapter]),
                blocks,
                context: 0,
                computed: 0,
                pending: prompts[number].clone(),
                drawn: vec![],
            }
        };
        Streams(order.into_iter().map(stream).collect())
    }

    /// Computes what is left of all prompts, and draws the first token of each.
    ///
    /// # Errors
    /// The runner's.
    pub fn read(&mut self, streams: &mut Streams) -> Result<(), RunError> {
        while streams.0.iter().any(|stream| stream.drawn.is_empty()) {
            self.pass(streams, |stream| stream.drawn.is_empty())?;
        }
        Ok(())
    }

    /// One more token of each.
    ///
    /// # Errors
    /// The runner's.
    pub fn step(&mut self, streams: &mut Streams) -> Result<(), RunError> {
        self.pass(streams, |_| true)
    }

    fn pass(&mut self, streams: &mut Streams, takes_part: impl Fn(&Stream) -> bool) -> Result<(), RunError> {
        let (mut left, mut rows, mut numbers) = (CPU_STEP_TOKENS, vec![], vec![]);
        for (index, stream) in streams.0.iter().enumerate().filter(|(_, stream)| takes_part(stream)) {
            let count = stream.pending.len().min(left);
            if count == 0 {
                continue;
            }
            left -= count;
            numbers.push(index);
            rows.push(stream.row(count));
        }
        let step = StepBatch { rows, copies: vec![] };
        let mut output = self.runner.run(&step, &self.adapters)?;
        for (row, (index, outcome)) in numbers.into_iter().zip(output.rows.clone()).enumerate() {
            let StepRowOutcome::Computed { logits } = outcome else {
                return Err(RunError::Batch { reason: format!("a row was not computed: {outcome:?}") });
            };
            // Nothing is scored, so what there is, is drawn from.
            let token = logits.last().map(|at| likeliest(&mut output, at));
            streams.0[index].advance(step.rows[row].tokens.len(), token);
        }
        Ok(())
    }
}

impl Streams {
    /// Puts all texts back to so many tokens, of those that were computed: the next step is that of a text so long.
    pub fn rewind(&mut self, context: usize) {
        for stream in &mut self.0 {
            assert!(context <= stream.computed, "so many tokens were not computed");
            stream.context = context;
        }
    }

    /// The tokens that were drawn for each prompt so far.
    pub fn drawn(&self) -> Vec<Vec<u32>> {
        let by_number: HashMap<usize, &Stream> =
            self.0.iter().map(|stream| (stream.number, stream)).collect();
        (0..self.0.len()).map(|number| by_number[&number].drawn.clone()).collect()
    }
}

impl Stream {
    fn row(&self, count: usize) -> StepRow {
        let id = SequenceId(self.number as u64);
        let needed = (self.context + count).div_ceil(BLOCK_SIZE);
        StepRow {
            sequence: id,
            domain: self.domain,
            tokens: self.pending[..count].to_vec(),
            context: self.context,
            cached: 0,
            blocks: self.blocks[..needed].to_vec(),
            draws: if count == self.pending.len() { vec![id] } else { vec![] },
            targets: vec![],
        }
    }

    fn advance(&mut self, computed: usize, token: Option<u32>) {
        self.context += computed;
        self.computed = self.computed.max(self.context);
        self.pending.drain(..computed);
        if let Some(token) = token {
            self.pending.push(token);
            self.drawn.push(token);
        }
    }
}

/// The token with the highest of the logits.
fn likeliest(output: &mut StepOutput, at: usize) -> u32 {
    let logits = output.logits_at(at);
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == highest).unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(pending: &[u32]) -> Stream {
        let blocks = (0..4).map(BlockId).collect();
        let pending = pending.to_vec();
        let domain = Domain::Base;
        Stream { number: 3, domain, blocks, context: 15, computed: 15, pending, drawn: vec![] }
    }

    #[test]
    fn a_row_draws_only_where_its_prompt_ends_and_has_the_blocks_that_it_reaches() {
        let mut stream = stream(&[5, 6, 7]);
        let part = stream.row(1);
        assert_eq!((part.tokens.as_slice(), part.blocks.len(), part.draws.len()), (&[5][..], 1, 0));
        stream.advance(1, None);
        let last = stream.row(2);
        assert_eq!((last.tokens.as_slice(), last.context, last.blocks.len()), (&[6, 7][..], 16, 2));
        assert_eq!(last.draws, [SequenceId(3)]);
        stream.advance(2, Some(9));
        let next = stream.row(1);
        assert_eq!((next.tokens, next.context, stream.drawn), (vec![9], 18, vec![9]));
    }

    #[test]
    fn a_text_goes_back_and_forth_among_what_was_computed() {
        let mut streams = Streams(vec![stream(&[5, 6, 7])]);
        streams.0[0].advance(3, Some(9));
        for context in [4, 18, 0, 17] {
            streams.rewind(context);
            assert_eq!(streams.0[0].row(1).context, context);
        }
    }

    #[test]
    #[should_panic(expected = "so many tokens were not computed")]
    fn a_text_does_not_go_beyond_what_was_computed() {
        Streams(vec![stream(&[5, 6, 7])]).rewind(16);
    }

    #[test]
    fn the_likeliest_token_is_the_first_of_the_highest() {
        let logits = vec![0.0, 9.0, -1.0, f32::NAN, 2.0, 2.0];
        let mut output = StepOutput { rows: vec![], logits, vocab_size: 3, lora_launches: 0 };
        assert_eq!([likeliest(&mut output, 0), likeliest(&mut output, 1)], [1, 1]);
    }
}
