//! What a row of a batch becomes, and the one place where hidden states become that.

use std::ops::Range;

use burn::tensor::{DType, Tensor};
use polylora_kernels::{Pooling, Sequences, pool};

/// What is asked for of a row. Rows that ask for different things share a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RowOutput {
    /// One vector, pooled, and at L2 norm 1 where the model's files say so.
    #[default]
    Embedding,
    /// One vector, pooled, at L2 norm 1 whatever the model's files say.
    Normalized,
    /// One vector, pooled and left at that.
    Raw,
    /// The last hidden state of each token, special tokens included, one after the other.
    Tokens,
}

/// How a model's files say that rows become vectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolingRule {
    /// How a row's tokens become one vector.
    pub(crate) pooling: Pooling,
    /// Whether [`RowOutput::Embedding`] has L2 norm 1.
    pub(crate) normalize: bool,
}

impl RowOutput {
    /// Number of values that a row of `tokens` tokens becomes in a model of that width.
    pub fn values(self, tokens: usize, width: usize) -> usize {
        match self {
            Self::Embedding | Self::Normalized | Self::Raw => width,
            Self::Tokens => tokens * width,
        }
    }

    /// Whether the row becomes one vector of L2 norm 1, or one that is not; `None` when it stays tokens.
    fn normalizes(self, rule: PoolingRule) -> Option<bool> {
        match self {
            Self::Embedding => Some(rule.normalize),
            Self::Normalized => Some(true),
            Self::Raw => Some(false),
            Self::Tokens => None,
        }
    }
}

/// What each row asked for out of the last hidden states, `[T, width]`, read back from the device at once: a vector of
/// [`RowOutput::values`] f32 a row, in the order of the rows.
pub(crate) fn read_out(
    hidden: Tensor<2>,
    sequences: &Sequences,
    rows: &[(usize, RowOutput)],
    rule: PoolingRule,
) -> Vec<Vec<f32>> {
    let [_, width] = hidden.dims();
    let wants: Vec<Option<bool>> = rows.iter().map(|(_, output)| output.normalizes(rule)).collect();
    // Each part is flat; where it begins in what is read back.
    let (mut parts, mut values) = (vec![], 0);
    let mut pooled_at = [0; 2];
    for normalize in [false, true] {
        if wants.contains(&Some(normalize)) {
            pooled_at[usize::from(normalize)] = values;
            let pooled = pool(hidden.clone(), sequences, rule.pooling, normalize);
            values += rows.len() * width;
            parts.push(pooled.reshape([rows.len() * width]));
        }
    }
    let mut tokens_at = values;
    for run in token_runs(rows) {
        let count = run.len() * width;
        let states = hidden.clone().slice([run, 0..width]).cast(DType::F32);
        parts.push(states.reshape([count]));
    }
    let all = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 0) };
    let all: Vec<f32> = all.into_data().iter::<f32>().collect();
    let mut read = Vec::with_capacity(rows.len());
    for (index, ((tokens, output), want)) in rows.iter().zip(wants).enumerate() {
        let count = output.values(*tokens, width);
        let from = match want {
            Some(normalize) => pooled_at[usize::from(normalize)] + index * width,
            None => {
                tokens_at += count;
                tokens_at - count
            }
        };
        read.push(all[from..from + count].to_vec());
    }
    read
}

/// Runs of tokens, in the packed batch, of neighbouring rows that stay tokens.
fn token_runs(rows: &[(usize, RowOutput)]) -> Vec<Range<usize>> {
    let (mut runs, mut start): (Vec<Range<usize>>, _) = (vec![], 0);
    for (tokens, output) in rows {
        let end = start + tokens;
        if *output == RowOutput::Tokens {
            match runs.last_mut().filter(|run| run.end == start) {
                Some(run) => run.end = end,
                None => runs.push(start..end),
            }
        }
        start = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_rows_of_tokens_are_one_run() {
        use RowOutput::{Embedding, Raw, Tokens};
        let rows = [(2, Tokens), (3, Tokens), (1, Embedding), (4, Tokens), (1, Raw)];
        assert_eq!(token_runs(&rows), [0..5, 6..10]);
        assert_eq!(token_runs(&[(2, Raw)]), [0..0; 0]);
    }
}
