//! What the engine counts, in a registry of its own.
//!
//! | name | kind | what |
//! |---|---|---|
//! | `polylora_requests_total{outcome}` | counter | requests that ended: `ok`, `client_error`, `overloaded`, `error`, `cancelled` |
//! | `polylora_errors_total{code}` | counter | requests that failed, by [`EmbedError::code`] |
//! | `polylora_tokens_total` | counter | tokens that went through the device |
//! | `polylora_rows_total` | counter | inputs that went through the device |
//! | `polylora_batches_total` | counter | batches run |
//! | `polylora_lora_launches_total` | counter | linear layers that ran with an adapter's part; none in a batch without adapters |
//! | `polylora_kernel_launches_total{kernel}` | counter | launches of our GPU kernels in the process since the engine was warm |
//! | `polylora_rows_deferred_total` | counter | rows put back because their adapter found no place in the device pool |
//! | `polylora_worker_restarts_total` | counter | runners built anew after a panic or a lost device |
//! | `polylora_batch_rows` | histogram | rows in a batch |
//! | `polylora_batch_tokens` | histogram | tokens in a batch |
//! | `polylora_tokenize_seconds` | histogram | tokenising one request |
//! | `polylora_queue_seconds` | histogram | from tokenised to picked, one row |
//! | `polylora_compute_seconds` | histogram | one batch on the device |
//! | `polylora_request_seconds` | histogram | a request from its arrival in the engine to its end |
//! | `polylora_requests_in_flight` | gauge | requests in the engine |
//! | `polylora_queue_rows` | gauge | rows that wait for the device |
//! | `polylora_adapters_resident` | gauge | adapters in host memory |
//! | `polylora_adapter_bytes` | gauge | their bytes |
//! | `polylora_pool_adapters` | gauge | adapters in the device's pool |
//! | `polylora_pool_bytes` | gauge | their bytes |
//! | `polylora_pool_leases` | gauge | leases on them that are out after a batch |
//! | `polylora_pool_evictions_total` | counter | adapters that had to leave the device's pool |
//! | `polylora_device_memory_bytes{kind}` | gauge | what the device's allocator has `reserved`, and what of it is `in_use` after a batch; not on the CPU |
//! | `polylora_warmup_seconds` | gauge | warming up at the start |

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use polylora_kernels::device_memory::DeviceMemory;
use polylora_kernels::launches::Kernel;
use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, exponential_buckets,
};

use crate::EmbedError;
use crate::adapter_source::AdapterMemory;
use crate::error::Blame;
use crate::runner::PoolUsage;

/// The engine's metrics; the module's table says what each is.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    errors: IntCounterVec,
    requests_in_flight: IntGauge,
    request_seconds: Histogram,
    adapters_resident: IntGauge,
    adapter_bytes: IntGauge,
    pool_adapters: IntGauge,
    pool_bytes: IntGauge,
    pool_leases: IntGauge,
    pool_evictions: IntCounter,
    /// Evictions that the runner had when it was last asked; a new runner begins anew.
    evictions_seen: AtomicU64,
    device_memory: IntGaugeVec,
    warmup_seconds: Gauge,
    kernel_launches: IntCounterVec,
    /// What the counters of the process said when they were last read; `None` until the engine is warm.
    launches_seen: Mutex<Option<[u64; Kernel::ALL.len()]>>,
    pub(crate) tokens: IntCounter,
    pub(crate) rows: IntCounter,
    pub(crate) batches: IntCounter,
    pub(crate) lora_launches: IntCounter,
    pub(crate) rows_deferred: IntCounter,
    pub(crate) worker_restarts: IntCounter,
    pub(crate) batch_rows: Histogram,
    pub(crate) batch_tokens: Histogram,
    pub(crate) tokenize_seconds: Histogram,
    pub(crate) queue_seconds: Histogram,
    pub(crate) compute_seconds: Histogram,
    queue_rows: IntGauge,
    waiting: AtomicI64,
}

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> Self {
        let make = Maker { registry: Registry::new() };
        Self {
            requests: make.counters("polylora_requests_total", "Requests that ended, by outcome", "outcome"),
            errors: make.counters("polylora_errors_total", "Requests that failed, by code", "code"),
            requests_in_flight: make.gauge("polylora_requests_in_flight", "Requests in the engine"),
            request_seconds: make.seconds("polylora_request_seconds", "Arrival to end of a request"),
            adapters_resident: make.gauge("polylora_adapters_resident", "Adapters in host memory"),
            adapter_bytes: make.gauge("polylora_adapter_bytes", "Bytes of the adapters in host memory"),
            pool_adapters: make.gauge("polylora_pool_adapters", "Adapters in the device's pool"),
            pool_bytes: make.gauge("polylora_pool_bytes", "Bytes of the adapters in the device's pool"),
            pool_leases: make.gauge("polylora_pool_leases", "Leases on adapters that are out after a batch"),
            pool_evictions: make
                .counter("polylora_pool_evictions_total", "Adapters that had to leave the device's pool"),
            evictions_seen: AtomicU64::new(0),
            device_memory: make.gauges(
                "polylora_device_memory_bytes",
                "Bytes of the device's allocator",
                "kind",
            ),
            warmup_seconds: make
                .register(Gauge::new("polylora_warmup_seconds", "Warming up at the start of the engine")),
            kernel_launches: make.counters(
                "polylora_kernel_launches_total",
                "Launches of our GPU kernels in the process since the engine was warm",
                "kernel",
            ),
            launches_seen: Mutex::new(None),
            tokens: make.counter("polylora_tokens_total", "Tokens that went through the device"),
            rows: make.counter("polylora_rows_total", "Inputs that went through the device"),
            batches: make.counter("polylora_batches_total", "Batches run"),
            lora_launches: make
                .counter("polylora_lora_launches_total", "Linear layers that ran with an adapter's part"),
            rows_deferred: make
                .counter("polylora_rows_deferred_total", "Rows put back for want of pool space"),
            worker_restarts: make.counter("polylora_worker_restarts_total", "Runners built anew"),
            batch_rows: make.sizes("polylora_batch_rows", "Rows in a batch"),
            batch_tokens: make.sizes("polylora_batch_tokens", "Tokens in a batch"),
            tokenize_seconds: make.seconds("polylora_tokenize_seconds", "Tokenising one request"),
            queue_seconds: make.seconds("polylora_queue_seconds", "From tokenised to picked, one row"),
            compute_seconds: make.seconds("polylora_compute_seconds", "One batch on the device"),
            queue_rows: make.gauge("polylora_queue_rows", "Rows that wait for the device"),
            waiting: AtomicI64::new(0),
            registry: make.registry,
        }
    }

    /// Counts a request that came in; it counts as cancelled unless [`RequestCount::end`] is called.
    pub(crate) fn request(&self) -> RequestCount<'_> {
        self.requests_in_flight.inc();
        RequestCount { metrics: self, began: Instant::now(), outcome: "cancelled" }
    }

    /// Rows wait for the device from now on.
    pub(crate) fn rows_wait(&self, rows: usize) {
        self.waiting.fetch_add(gauge(rows), Ordering::Relaxed);
    }

    /// Rows wait no more: picked, or nobody's.
    pub(crate) fn rows_leave(&self, rows: usize) {
        self.waiting.fetch_sub(gauge(rows), Ordering::Relaxed);
    }

    /// Notes what lies in the device's pool.
    pub(crate) fn set_pool(&self, usage: PoolUsage) {
        self.pool_adapters.set(gauge(usage.adapters));
        self.pool_bytes.set(gauge(usage.bytes));
        self.pool_leases.set(gauge(usage.leases));
        let seen = self.evictions_seen.swap(usage.evictions, Ordering::Relaxed);
        self.pool_evictions.inc_by(usage.evictions.checked_sub(seen).unwrap_or(usage.evictions));
    }

    /// Notes what the device's allocator holds.
    pub(crate) fn set_device_memory(&self, memory: Option<DeviceMemory>) {
        let Some(DeviceMemory { reserved, in_use }) = memory else { return };
        for (kind, bytes) in [("reserved", reserved), ("in_use", in_use)] {
            self.device_memory.with_label_values(&[kind]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// Notes how long warming up took; launches count from now on.
    pub(crate) fn warmed_up(&self, seconds: f64) {
        self.warmup_seconds.set(seconds);
        *self.launches_seen.lock() = Some(Kernel::ALL.map(Kernel::launches));
    }

    /// Adds the launches since the last look.
    fn count_launches(&self) {
        let mut seen = self.launches_seen.lock();
        let now = seen.map(|_| Kernel::ALL.map(Kernel::launches));
        for (index, kernel) in Kernel::ALL.into_iter().enumerate() {
            let since = now.zip(*seen).map_or(0, |(now, seen)| now[index] - seen[index]);
            self.kernel_launches.with_label_values(&[kernel.name()]).inc_by(since);
        }
        *seen = now;
    }

    /// All metrics in Prometheus' text format 0.0.4.
    pub(crate) fn render(&self, memory: AdapterMemory) -> String {
        self.adapters_resident.set(gauge(memory.adapters));
        self.adapter_bytes.set(gauge(memory.bytes));
        self.count_launches();
        // A row may be picked before its sender has counted it.
        self.queue_rows.set(self.waiting.load(Ordering::Relaxed).max(0));
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics could not be rendered");
            String::new()
        })
    }
}

/// Seconds in the unit of Prometheus.
pub(crate) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// One request in flight.
#[derive(Debug)]
pub(crate) struct RequestCount<'a> {
    metrics: &'a Metrics,
    began: Instant,
    outcome: &'static str,
}

impl RequestCount<'_> {
    /// The request ended with an answer.
    pub(crate) fn end<T>(mut self, answer: &Result<T, EmbedError>) {
        self.outcome = match answer.as_ref().map_err(EmbedError::blame) {
            Ok(_) => "ok",
            Err(Blame::Client) => "client_error",
            Err(Blame::Load) => "overloaded",
            Err(Blame::Server) => "error",
        };
        if let Err(error) = answer {
            self.metrics.errors.with_label_values(&[error.code()]).inc();
        }
    }
}

impl Drop for RequestCount<'_> {
    fn drop(&mut self) {
        self.metrics.requests_in_flight.dec();
        self.metrics.requests.with_label_values(&[self.outcome]).inc();
        self.metrics.request_seconds.observe(seconds(self.began.elapsed()));
    }
}

fn gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

struct Maker {
    registry: Registry,
}

impl Maker {
    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), &[label]))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), &[label]))
    }

    /// 0.1 ms to 26 s, then above.
    fn seconds(&self, name: &str, help: &str) -> Histogram {
        self.histogram(name, help, 1e-4, 19)
    }

    /// 1 to 65,536, then above.
    fn sizes(&self, name: &str, help: &str) -> Histogram {
        self.histogram(name, help, 1.0, 17)
    }

    fn histogram(&self, name: &str, help: &str, start: f64, count: usize) -> Histogram {
        let buckets = exponential_buckets(start, 2.0, count);
        self.register(buckets.and_then(|b| Histogram::with_opts(HistogramOpts::new(name, help).buckets(b))))
    }

    /// Names and buckets are written in this file: a bad one is a broken invariant.
    fn register<C: Collector + Clone + 'static>(&self, collector: prometheus::Result<C>) -> C {
        let collector = collector.expect("names, labels and buckets are valid");
        self.registry.register(Box::new(collector.clone())).expect("names are unique");
        collector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_table_is_rendered() {
        let metrics = Metrics::new();
        metrics.request().end::<()>(&Err(EmbedError::NoInputs));
        drop(metrics.request());
        metrics.request().end(&Ok(()));
        metrics.set_device_memory(Some(DeviceMemory { reserved: 64, in_use: 16 }));
        metrics.warmed_up(2.5);
        let text = metrics.render(AdapterMemory { adapters: 3, bytes: 12 });
        let table =
            include_str!("metrics.rs").lines().filter_map(|line| line.strip_prefix("//! | `polylora_"));
        let names: Vec<_> = table.map(|line| line.split(['`', '{']).next().unwrap()).collect();
        assert_eq!(names.len(), text.lines().filter(|line| line.starts_with("# TYPE")).count());
        for name in names {
            assert!(text.contains(&format!("# TYPE polylora_{name} ")), "{name}");
        }
        for line in [
            "polylora_requests_total{outcome=\"client_error\"} 1",
            "polylora_requests_total{outcome=\"cancelled\"} 1",
            "polylora_requests_total{outcome=\"ok\"} 1",
            "polylora_errors_total{code=\"no_inputs\"} 1",
            "polylora_requests_in_flight 0",
            "polylora_adapters_resident 3",
            "polylora_adapter_bytes 12",
            "polylora_device_memory_bytes{kind=\"reserved\"} 64",
            "polylora_device_memory_bytes{kind=\"in_use\"} 16",
            "polylora_warmup_seconds 2.5",
            "polylora_kernel_launches_total{kernel=\"sgmv_shrink\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn evictions_go_on_counting_when_a_runner_is_built_anew() {
        let metrics = Metrics::new();
        for evictions in [3, 5, 2] {
            metrics.set_pool(PoolUsage { evictions, leases: 1, ..PoolUsage::default() });
        }
        let text = metrics.render(AdapterMemory { adapters: 0, bytes: 0 });
        for line in ["polylora_pool_evictions_total 7", "polylora_pool_leases 1"] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
