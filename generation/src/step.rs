//! One forward pass: what the scheduler asks for and what came of it.

use crate::block_pool::BlockId;
use crate::domain::Domain;
use crate::sequence::SequenceId;

/// What goes through the model together.
///
/// All `copies` are carried out before any row is computed, also those of rows that are deferred. No block is in
/// two copies' `to`, and none is both read and written by copies, so that they may run side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepBatch {
    /// The rows; never empty. Rows of one domain are neighbours, the base comes first, and adapters come in the order
    /// in which they should find room on the device.
    pub rows: Vec<StepRow>,
    /// Blocks to copy first.
    pub copies: Vec<BlockCopy>,
}

/// Consecutive tokens of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRow {
    /// The sequence; of siblings that did not part yet, one that stands for all.
    pub sequence: SequenceId,
    /// The weights it goes through.
    pub domain: Domain,
    /// The tokens to compute; never empty. Their positions are `context..context + tokens.len()`.
    pub tokens: Vec<u32>,
    /// Tokens before them, whose keys and values are in the cache.
    pub context: usize,
    /// Tokens of the prompt that were found in the prefix cache until now.
    pub cached: usize,
    /// The blocks of positions `0..context + tokens.len()`. The row writes those of its tokens, which no other row
    /// reads.
    pub blocks: Vec<BlockId>,
    /// Who draws a token from the last position's logits: nobody in the middle of a prompt, every sibling at its end.
    pub draws: Vec<SequenceId>,
    /// Where the prompt is scored: the token of the prompt after each position, which that position's logits judge. The
    /// prompt's last position has none. A prompt that is computed again after a preemption is scored again.
    pub targets: Vec<u32>,
}

impl StepRow {
    /// Positions whose logits are needed: none, the last, or, where the prompt is scored, all.
    pub fn wanted_logits(&self) -> usize {
        self.targets.len() + usize::from(!self.draws.is_empty())
    }
}

/// A block whose content is needed twice from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// Where it is.
    pub from: BlockId,
    /// Where it is needed too.
    pub to: BlockId,
}

/// What came of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepOutcome {
    /// A token for each draw of each row that was computed.
    pub drawn: Vec<DrawnToken>,
    /// Rows, by their [`StepRow::sequence`], that were not computed: because their adapter found no room on the
    /// device, or all of them because the step failed. They come again.
    pub deferred: Vec<SequenceId>,
}

/// The next token of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrawnToken {
    /// The sequence.
    pub sequence: SequenceId,
    /// Its token.
    pub token: u32,
}

/// A sequence that got its last token. The scheduler has let it go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSequence {
    /// The sequence.
    pub sequence: SequenceId,
    /// Why it goes no further.
    pub cause: EndCause,
}

/// Why a sequence goes no further; a client is told `length` for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndCause {
    /// It has as many new tokens as it asked for.
    MaxTokens,
    /// It is as long as the model's context.
    ContextFull,
    /// It is longer than the whole KV cache.
    CacheFull,
}
