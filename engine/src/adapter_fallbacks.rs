//! How often the base model answered in place of an adapter.

use prometheus::IntCounter;

/// Counts requests that the base model answered because their adapter could not be loaded. Clones count together: so two engines
/// of one server have one figure, which each of them tells.
#[derive(Clone, Debug)]
pub struct AdapterFallbacks(pub(crate) IntCounter);

impl AdapterFallbacks {
    /// One more.
    pub(crate) fn count(&self) {
        self.0.inc();
    }
}

impl Default for AdapterFallbacks {
    fn default() -> Self {
        let help = "Requests that the base model answered because their adapter could not be loaded";
        Self(IntCounter::new("polylora_adapter_fallbacks_total", help).expect("a valid name"))
    }
}
