//! The engine at one moment, for a page that shows it: cheap to take, with no lock that a batch is computed under.

use std::time::Duration;

/// What the engine does now and did lately.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The device, e.g. `cpu (avx512)`.
    pub device: String,
    /// The way of serving, e.g. `batched, mixed`.
    pub mode: String,
    /// Instances that compute.
    pub instances: usize,
    /// The base model, then adapters that were asked for, by name; above 64 of them the others are one.
    pub domains: Vec<DomainSnapshot>,
    /// Requests of which a row is being computed or was.
    pub running_requests: usize,
    /// Requests that wait for the device.
    pub waiting_requests: usize,
    /// Inputs computed a second, over the last ten whole seconds.
    pub rows_per_second: f64,
    /// Tokens computed a second, over the same.
    pub tokens_per_second: f64,
    /// How long the last requests took; `None` before the first.
    pub latency: Option<LatencySnapshot>,
}

/// The traffic of the base model or of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainSnapshot {
    /// Whose it is.
    pub domain: DomainLabel,
    /// Requests so far.
    pub requests: u64,
    /// Inputs that wait for the device.
    pub waiting_rows: usize,
    /// Requests of which a row is being computed or was.
    pub running_requests: usize,
}

/// Whose traffic it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainLabel {
    /// The base model's.
    Base,
    /// An adapter's.
    Adapter(String),
    /// That of all adapters that are not told apart.
    Others,
}

/// How long requests took, from their arrival in the engine to their end: the last 1024 that were answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencySnapshot {
    /// Half of them took no longer.
    pub p50: Duration,
    /// 99 of a hundred took no longer.
    pub p99: Duration,
}
