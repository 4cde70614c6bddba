//! What a row of a batch becomes.

/// As in `models/src/row_output.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RowOutput {
    /// One vector as the model's files say.
    #[default]
    Embedding,
    /// One vector of norm 1.
    Normalized,
    /// One vector.
    Raw,
    /// A vector for each token.
    Tokens,
}
