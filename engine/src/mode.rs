//! The ways to serve, for use and for comparison; everything around them is the same.

use std::fmt;

/// How rows become batches, and how many instances compute them.
///
/// An instance is an owner thread with its weights and its pool of adapters; there are as many as the engine gets runners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One instance, one text at a time in the order of arrival, as if each took a lock.
    Serial,
    /// Several instances, each one text at a time; a request goes to the one with the fewest rows before it.
    Pooled,
    /// One instance that computes the texts of many requests together.
    Batched(Batching),
}

/// Whose texts share a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Batching {
    /// Everybody's: each row goes through its own adapter.
    #[default]
    Mixed,
    /// Those of one domain; the domains take turns, that with the oldest row first.
    PerDomain,
}

impl Default for Mode {
    fn default() -> Self {
        Self::Batched(Batching::Mixed)
    }
}

impl Mode {
    /// Whether texts are computed one by one.
    pub fn is_one_by_one(self) -> bool {
        !matches!(self, Self::Batched(_))
    }

    /// Who may share a batch, where there are batches.
    pub fn batching(self) -> Batching {
        match self {
            Self::Batched(batching) => batching,
            Self::Serial | Self::Pooled => Batching::Mixed,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serial => "serial",
            Self::Pooled => "pooled",
            Self::Batched(Batching::Mixed) => "batched, mixed",
            Self::Batched(Batching::PerDomain) => "batched, per-domain",
        })
    }
}
