//! Makes metrics and registers them.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

use crate::adapter_fallbacks::AdapterFallbacks;

/// Makes metrics of one registry.
pub(crate) struct Maker {
    /// Where they are registered.
    pub(crate) registry: Registry,
}

impl Maker {
    pub(crate) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    pub(crate) fn counters(&self, name: &str, help: &str, label: &str) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), &[label]))
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    pub(crate) fn gauges(&self, name: &str, help: &str, label: &str) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), &[label]))
    }

    /// 0.1 ms to 26 s, then above.
    pub(crate) fn seconds(&self, name: &str, help: &str) -> Histogram {
        self.histogram(name, help, 1e-4, 19)
    }

    /// 1 to 65,536, then above.
    pub(crate) fn sizes(&self, name: &str, help: &str) -> Histogram {
        self.histogram(name, help, 1.0, 17)
    }

    pub(crate) fn histogram(&self, name: &str, help: &str, start: f64, count: usize) -> Histogram {
        let buckets = exponential_buckets(start, 2.0, count);
        self.register(buckets.and_then(|b| Histogram::with_opts(HistogramOpts::new(name, help).buckets(b))))
    }

    /// A counter that other registries may have, too.
    pub(crate) fn fallbacks(&self, fallbacks: &AdapterFallbacks) -> AdapterFallbacks {
        AdapterFallbacks(self.register(Ok(fallbacks.0.clone())))
    }

    /// Names and buckets are written in this file: a bad one is a broken invariant.
    pub(crate) fn register<C: Collector + Clone + 'static>(&self, collector: prometheus::Result<C>) -> C {
        let collector = collector.expect("names, labels and buckets are valid");
        self.registry.register(Box::new(collector.clone())).expect("names are unique");
        collector
    }
}
