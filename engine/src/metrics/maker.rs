//! Makes metrics and registers them.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

/// Makes metrics of one registry.
pub(super) struct Maker {
    /// Where they are registered.
    pub(super) registry: Registry,
}

impl Maker {
    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    pub(super) fn counters(&self, name: &str, help: &str, label: &str) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), &[label]))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, label: &str) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), &[label]))
    }

    /// 0.1 ms to 26 s, then above.
    pub(super) fn seconds(&self, name: &str, help: &str) -> Histogram {
        self.histogram(name, help, 1e-4, 19)
    }

    /// 1 to 65,536, then above.
    pub(super) fn sizes(&self, name: &str, help: &str) -> Histogram {
        self.histogram(name, help, 1.0, 17)
    }

    pub(super) fn histogram(&self, name: &str, help: &str, start: f64, count: usize) -> Histogram {
        let buckets = exponential_buckets(start, 2.0, count);
        self.register(buckets.and_then(|b| Histogram::with_opts(HistogramOpts::new(name, help).buckets(b))))
    }

    /// Names and buckets are written in this file: a bad one is a broken invariant.
    pub(super) fn register<C: Collector + Clone + 'static>(&self, collector: prometheus::Result<C>) -> C {
        let collector = collector.expect("names, labels and buckets are valid");
        self.registry.register(Box::new(collector.clone())).expect("names are unique");
        collector
    }
}
