//! Makes metrics and registers them.

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

use crate::adapter_fallbacks::AdapterFallbacks;

/// Makes metrics of one registry.
pub(crate) struct Maker {
    /// Where they are registered.
    pub(crate) registry: Registry,
    /// The model's name.
    model: String,
}

/// What vLLM's names begin with.
const VLLMS: &str = "vllm:";
/// The label by which vLLM's dashboards tell models apart.
const MODEL_NAME: &str = "model_name";

impl Maker {
    /// Makes metrics of a model; those under vLLM's names have its name for a label.
    pub(crate) fn of_model(name: &str) -> Self {
        Self { registry: Registry::new(), model: name.to_owned() }
    }

    pub(crate) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(self.opts(name, help)))
    }

    pub(crate) fn counters(&self, name: &str, help: &str, label: &str) -> IntCounterVec {
        self.register(IntCounterVec::new(self.opts(name, help), &[label]))
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(self.opts(name, help)))
    }

    /// A gauge of what is no whole number.
    pub(crate) fn float_gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::with_opts(self.opts(name, help)))
    }

    pub(crate) fn gauges(&self, name: &str, help: &str, label: &str) -> IntGaugeVec {
        self.register(IntGaugeVec::new(self.opts(name, help), &[label]))
    }

    /// 0.1 ms to 26 s, then above.
    pub(crate) fn seconds(&self, name: &str, help: &str) -> Histogram {
        self.histogram(name, help, 1e-4, 19)
    }

    /// 1 ms to 35 min, then above: what lasts as long as a text is long.
    pub(crate) fn long_seconds(&self, name: &str, help: &str) -> Histogram {
        self.histogram(name, help, 1e-3, 22)
    }

    /// 1 to 65,536, then above.
    pub(crate) fn sizes(&self, name: &str, help: &str) -> Histogram {
        self.histogram(name, help, 1.0, 17)
    }

    pub(crate) fn histogram(&self, name: &str, help: &str, start: f64, count: usize) -> Histogram {
        let buckets = exponential_buckets(start, 2.0, count);
        let opts = HistogramOpts::from(self.opts(name, help));
        self.register(buckets.and_then(|buckets| Histogram::with_opts(opts.buckets(buckets))))
    }

    /// A counter that other registries may have, too.
    pub(crate) fn fallbacks(&self, fallbacks: &AdapterFallbacks) -> AdapterFallbacks {
        AdapterFallbacks(self.register(Ok(fallbacks.0.clone())))
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        let opts = Opts::new(name, help);
        if name.starts_with(VLLMS) { opts.const_label(MODEL_NAME, &self.model) } else { opts }
    }

    /// Names and buckets are written in this file: a bad one is a broken invariant.
    pub(crate) fn register<C: Collector + Clone + 'static>(&self, collector: prometheus::Result<C>) -> C {
        let collector = collector.expect("names, labels and buckets are valid");
        self.registry.register(Box::new(collector.clone())).expect("names are unique");
        collector
    }
}
