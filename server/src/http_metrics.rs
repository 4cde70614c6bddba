//! Counters of the HTTP side, beside the engine's: also what never reached the engine is counted.

use std::time::Duration;

use crate::connections::ConnectionMetrics;
use axum::http::StatusCode;
use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};

/// Counts by route template (never by path, which clients choose) and status.
pub struct HttpMetrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    connections: ConnectionMetrics,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self::new(ConnectionMetrics::default())
    }
}

impl HttpMetrics {
    /// Counters at zero, in a registry of their own, together with those of the connections.
    pub fn new(connections: ConnectionMetrics) -> Self {
        let requests = IntCounterVec::new(
            Opts::new(
                "polylora_http_requests_total",
                "HTTP requests by route and status; 499 is a client that went away.",
            ),
            &["route", "status"],
        )
        .expect("a well-formed counter");
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "polylora_http_request_duration_seconds",
                "Seconds from a request's head to its reply.",
            )
            .buckets(vec![
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0,
                300.0, 600.0, 1800.0,
            ]),
            &["route"],
        )
        .expect("a well-formed histogram");
        let registry = Registry::new();
        registry.register(Box::new(requests.clone())).expect("registered once");
        registry.register(Box::new(seconds.clone())).expect("registered once");
        connections.register(&registry);
        Self { registry, requests, seconds, connections }
    }

    /// The counters of connections.
    pub fn connections(&self) -> &ConnectionMetrics {
        &self.connections
    }

    /// Counts one request.
    pub fn observe(&self, route: &str, status: StatusCode, latency: Duration) {
        self.requests.with_label_values(&[route, status.as_str()]).inc();
        self.seconds.with_label_values(&[route]).observe(latency.as_secs_f64());
    }

    /// The counters in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the HTTP metrics could not be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}
