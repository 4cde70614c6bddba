//! The ways in which the server can serve many domains, and how it is told.

use std::fmt;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServedMode {
    /// One text at a time behind a lock.
    Serial,
    /// So many instances, each with its own weights, one text at a time each.
    Pooled(usize),
    /// One instance, rows of all domains in one batch.
    Mixed,
    /// One instance, batch by batch of one domain each.
    PerDomain,
}

impl ServedMode {
    /// The flags of `polylora serve`.
    pub fn arguments(self) -> Vec<String> {
        match self {
            ServedMode::Serial => vec!["--mode=serial".into()],
            ServedMode::Pooled(size) => vec!["--mode=pooled".into(), format!("--pool-size={size}")],
            ServedMode::Mixed => vec!["--mode=batched".into(), "--batching=mixed".into()],
            ServedMode::PerDomain => vec!["--mode=batched".into(), "--batching=per-domain".into()],
        }
    }
}

impl fmt::Display for ServedMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServedMode::Serial => f.write_str("serial"),
            ServedMode::Pooled(size) => write!(f, "pooled, {size}"),
            ServedMode::Mixed => f.write_str("batched, mixed"),
            ServedMode::PerDomain => f.write_str("batched, per domain"),
        }
    }
}
