//! How often the base model answered in place of an adapter.

use prometheus::IntCounter;

/// Counts requests that the base model answered because their adapter could not be loaded. Clones count together: so two engines
/// of one server have one figure, which each of them tells.
#[derive(Clone, Debug)]
pub struct AdapterFallbacks(pub(crate) IntCounter);

impl AdapterFallbacks {
    /// The counter's name.
    pub(crate) const NAME: &str = "polylora_adapter_fallbacks_total";
    /// What it counts.
    pub(crate) const HELP: &str =
        "Requests that the base model answered because their adapter could not be loaded";

    /// None yet.
    pub(crate) fn new() -> Self {
        // A name that Prometheus takes.
        Self(IntCounter::new(Self::NAME, Self::HELP).expect("a valid name"))
    }
}

impl Default for AdapterFallbacks {
    fn default() -> Self {
        Self::new()
    }
}
