//! What the engine counts, in a registry of its own.
//!
//! | name | kind | what |
//! |---|---|---|
//! | `polylora_requests_total{outcome}` | counter | requests that ended: `ok`, `client_error`, `overloaded`, `error`, `cancelled` |
//! | `polylora_errors_total{code}` | counter | requests that failed, by `EmbedError::code` |
//! | `polylora_tokens_total` | counter | tokens that went through the device |
//! | `polylora_rows_total` | counter | inputs that went through the device |
//! | `polylora_batches_total` | counter | batches run |
//! | `polylora_lora_launches_total` | counter | linear layers that ran with an adapter's part; none in a batch without adapters |
//! | `polylora_kernel_launches_total{kernel}` | counter | launches of our GPU kernels in the process since the engine was warm |
//! | `polylora_rows_deferred_total` | counter | rows put back because their adapter found no place in the device pool |
//! | `polylora_batch_retries_total` | counter | halves of a failed batch that were run again |
//! | `polylora_adapter_requests_total{adapter}` | counter | requests let in, by adapter; `(base)` is the base model, `other` are all adapters after the first 64; adapters of these names are `./(base)` and `./other` |
//! | `polylora_adapter_fallbacks_total` | counter | requests that the base model answered because their adapter could not be loaded |
//! | `polylora_memo_hits_total` | counter | inputs that were not computed: the memo had them, or others computed the same at the time |
//! | `polylora_memo_misses_total` | counter | inputs that the memo did not have |
//! | `polylora_worker_restarts_total` | counter | runners built anew after a panic or a lost device |
//! | `polylora_batch_rows` | histogram | rows in a batch |
//! | `polylora_batch_tokens` | histogram | tokens in a batch |
//! | `polylora_batch_domains` | histogram | domains (the base, adapters) in a batch |
//! | `polylora_tokenize_seconds` | histogram | tokenising one request |
//! | `polylora_queue_seconds` | histogram | from tokenised to the batch's turn on the device, one row |
//! | `polylora_compute_seconds` | histogram | one batch on the device |
//! | `polylora_request_seconds` | histogram | a request from its arrival in the engine to its end |
//! | `polylora_requests_in_flight` | gauge | requests in the engine |
//! | `polylora_queue_rows` | gauge | rows that wait for the device |
//! | `polylora_adapter_queue_rows{adapter}` | gauge | of these by adapter, labelled as above |
//! | `vllm:num_requests_running` | gauge | requests of which an input is being computed or was |
//! | `vllm:num_requests_waiting` | gauge | requests that wait for the device |
//! | `polylora_memo_bytes` | gauge | what the memo holds |
//! | `polylora_adapters_resident` | gauge | adapters in host memory |
//! | `polylora_adapter_bytes` | gauge | their bytes |
//! | `polylora_pool_adapters` | gauge | adapters in the device's pool |
//! | `polylora_pool_bytes` | gauge | their bytes |
//! | `polylora_pool_leases` | gauge | leases on them that are out after a batch |
//! | `polylora_pool_evictions_total` | counter | adapters that had to leave the device's pool |
//! | `polylora_device_memory_bytes{kind}` | gauge | what the device's allocator has `reserved`, and what of it is `in_use` after a batch; not on the CPU |
//! | `polylora_warmup_seconds` | gauge | warming up at the start |

mod maker;
mod request_count;

use std::borrow::Cow;
use std::time::Duration;

use parking_lot::Mutex;
use polylora_kernels::device_memory::DeviceMemory;
use polylora_kernels::launches::Kernel;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};

use crate::adapter_fallbacks::AdapterFallbacks;
use crate::adapter_source::AdapterMemory;
use crate::lately::Lately;
use crate::runner::PoolUsage;
use crate::snapshot::DomainLabel;
use crate::traffic::Traffic;

pub(crate) use maker::Maker;
pub(crate) use request_count::RequestCount;

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
    device_memory: IntGaugeVec,
    warmup_seconds: Gauge,
    kernel_launches: IntCounterVec,
    /// What the counters of the process said when they were last read; `None` until the engine is warm.
    launches_seen: Mutex<Option<[u64; Kernel::ALL.len()]>>,
    tokens: IntCounter,
    rows: IntCounter,
    pub(crate) batches: IntCounter,
    pub(crate) lora_launches: IntCounter,
    pub(crate) rows_deferred: IntCounter,
    pub(crate) worker_restarts: IntCounter,
    pub(crate) batch_retries: IntCounter,
    pub(crate) adapter_fallbacks: AdapterFallbacks,
    pub(crate) memo_hits: IntCounter,
    pub(crate) memo_misses: IntCounter,
    memo_bytes: IntGauge,
    batch_rows: Histogram,
    batch_tokens: Histogram,
    batch_domains: Histogram,
    pub(crate) tokenize_seconds: Histogram,
    queue_seconds: Histogram,
    pub(crate) compute_seconds: Histogram,
    queue_rows: IntGauge,
    adapter_queue_rows: IntGaugeVec,
    adapter_requests: IntCounterVec,
    requests_running: IntGauge,
    requests_waiting: IntGauge,
    pub(crate) traffic: Traffic,
    /// Held while requests are carried over from `traffic`, so that two readers do not both add the same ones.
    traffic_carried: Mutex<()>,
    pub(crate) lately: Lately,
}

/// How much one batch held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchSize {
    /// Rows.
    pub(crate) rows: usize,
    /// Their tokens.
    pub(crate) tokens: usize,
    /// The base and adapters among them.
    pub(crate) domains: usize,
}

/// What is known only when the metrics are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// Adapters in host memory.
    pub(crate) adapters: AdapterMemory,
    /// Bytes of the memo.
    pub(crate) memo_bytes: usize,
}

impl Metrics {
    /// All at zero, of the model of that name.
    pub(crate) fn new(model: &str) -> Self {
        let make = Maker::of_model(model);
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
            device_memory: make.gauges(
                "polylora_device_memory_bytes",
                "Bytes of the device's allocator",
                "kind",
            ),
            warmup_seconds: make
                .float_gauge("polylora_warmup_seconds", "Warming up at the start of the engine"),
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
            batch_retries: make
                .counter("polylora_batch_retries_total", "Halves of a failed batch that were run again"),
            adapter_fallbacks: make.fallbacks(&AdapterFallbacks::default()),
            memo_hits: make.counter("polylora_memo_hits_total", "Inputs that were not computed again"),
            memo_misses: make.counter("polylora_memo_misses_total", "Inputs that the memo did not have"),
            memo_bytes: make.gauge("polylora_memo_bytes", "Bytes of the memo"),
            batch_rows: make.sizes("polylora_batch_rows", "Rows in a batch"),
            batch_tokens: make.sizes("polylora_batch_tokens", "Tokens in a batch"),
            batch_domains: make.sizes("polylora_batch_domains", "Domains in a batch"),
            tokenize_seconds: make.seconds("polylora_tokenize_seconds", "Tokenising one request"),
            queue_seconds: make.seconds(
                "polylora_queue_seconds",
                "From tokenised to the batch's turn on the device, one row",
            ),
            compute_seconds: make.seconds("polylora_compute_seconds", "One batch on the device"),
            queue_rows: make.gauge("polylora_queue_rows", "Rows that wait for the device"),
            adapter_queue_rows: make.gauges(
                "polylora_adapter_queue_rows",
                "Rows that wait for the device",
                "adapter",
            ),
            adapter_requests: make.counters("polylora_adapter_requests_total", "Requests let in", "adapter"),
            requests_running: make.gauge("vllm:num_requests_running", "Requests that are being computed"),
            requests_waiting: make.gauge("vllm:num_requests_waiting", "Requests that wait for the device"),
            traffic: Traffic::new(),
            traffic_carried: Mutex::default(),
            lately: Lately::new(),
            registry: make.registry,
        }
    }

    /// Counts a request that came in; it counts as cancelled unless [`RequestCount::end`] is called.
    pub(crate) fn request(&self) -> RequestCount<'_> {
        RequestCount::begin(self)
    }

    /// Rows were taken to the device that had waited so long.
    pub(crate) fn taken(&self, waited: impl Iterator<Item = Duration>) {
        waited.for_each(|waited| self.queue_seconds.observe(seconds(waited)));
    }

    /// A batch was computed.
    pub(crate) fn computed(&self, size: BatchSize) {
        let BatchSize { rows, tokens, domains } = size;
        self.rows.inc_by(rows as u64);
        self.tokens.inc_by(tokens as u64);
        self.batch_rows.observe(rows as f64);
        self.batch_tokens.observe(tokens as f64);
        self.batch_domains.observe(domains as f64);
        self.lately.worked(rows, tokens);
    }

    /// Notes what lies in a device's pool where `before` lay; devices add up.
    pub(crate) fn change_pool(&self, before: PoolUsage, now: PoolUsage) {
        self.pool_adapters.add(gauge(now.adapters) - gauge(before.adapters));
        self.pool_bytes.add(gauge(now.bytes) - gauge(before.bytes));
        self.pool_leases.add(gauge(now.leases) - gauge(before.leases));
        // A runner that was built anew begins with none.
        let since = now.evictions.checked_sub(before.evictions);
        self.pool_evictions.inc_by(since.unwrap_or(now.evictions));
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

    /// Brings the counts of requests and waiting rows up to date.
    fn count_traffic(&self) {
        let _carries = self.traffic_carried.lock();
        let mut waiting = 0;
        for figures in self.traffic.figures() {
            let label = adapter_label(&figures.domain);
            let label = label.as_ref();
            waiting += figures.waiting_rows;
            self.adapter_queue_rows.with_label_values(&[label]).set(gauge(figures.waiting_rows));
            let requests = self.adapter_requests.with_label_values(&[label]);
            requests.inc_by(figures.requests.saturating_sub(requests.get()));
        }
        self.queue_rows.set(gauge(waiting));
        self.requests_running.set(gauge(self.traffic.running()));
        self.requests_waiting.set(gauge(self.traffic.waiting()));
    }

    /// All metrics in Prometheus' text format 0.0.4.
    pub(crate) fn render(&self, holdings: Holdings) -> String {
        self.adapters_resident.set(gauge(holdings.adapters.adapters));
        self.adapter_bytes.set(gauge(holdings.adapters.bytes));
        self.memo_bytes.set(gauge(holdings.memo_bytes));
        self.count_launches();
        self.count_traffic();
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

/// Label of the base model.
const BASE: &str = "(base)";
/// Label of the adapters that are not told apart.
const OTHERS: &str = "other";

/// The label `adapter`. No adapter's name has a slash, so one that is named like a label above is told apart from it.
fn adapter_label(domain: &DomainLabel) -> Cow<'_, str> {
    match domain {
        DomainLabel::Base => BASE.into(),
        DomainLabel::Others => OTHERS.into(),
        DomainLabel::Adapter(name) if [BASE, OTHERS].contains(&name.as_str()) => format!("./{name}").into(),
        DomainLabel::Adapter(name) => name.into(),
    }
}

fn gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
