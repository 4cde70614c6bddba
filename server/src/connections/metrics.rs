//! Counters of connections.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What a client was late with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// The TLS handshake.
    Handshake,
    /// The head of a request.
    Header,
    /// The body of a request.
    Body,
    /// The next request.
    Idle,
    /// Reading a reply.
    Reading,
}

impl Late {
    const ALL: [Self; 5] = [Self::Handshake, Self::Header, Self::Body, Self::Idle, Self::Reading];

    fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Header => "header",
            Self::Body => "body",
            Self::Idle => "idle",
            Self::Reading => "reading",
        }
    }
}

/// Connections that are open, that were refused, and that were closed because a client was late.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    open: IntGauge,
    refused: IntCounter,
    timeouts: IntCounterVec,
}

impl Default for ConnectionMetrics {
    fn default() -> Self {
        let open = IntGauge::new("polylora_http_connections", "Open connections.");
        let refused = IntCounter::new(
            "polylora_http_connections_refused_total",
            "Connections that were answered 429 because --max-connections were open.",
        );
        let timeouts = IntCounterVec::new(
            Opts::new(
                "polylora_http_timeouts_total",
                "Clients that were late, by what with: handshake, header, body, idle (the next request), reading.",
            ),
            &["kind"],
        )
        .expect("a well-formed counter");
        for late in Late::ALL {
            timeouts.with_label_values(&[late.label()]);
        }
        let (open, refused) = (open.expect("a well-formed gauge"), refused.expect("a well-formed counter"));
        Self { open, refused, timeouts }
    }
}

impl ConnectionMetrics {
    /// Puts the counters into a registry, once.
    pub fn register(&self, registry: &Registry) {
        let collectors: [Box<dyn Collector>; 3] =
            [Box::new(self.open.clone()), Box::new(self.refused.clone()), Box::new(self.timeouts.clone())];
        for collector in collectors {
            registry.register(collector).expect("registered once");
        }
    }

    /// Connections that are open.
    pub fn open_connections(&self) -> i64 {
        self.open.get()
    }

    /// A client was late.
    pub fn late(&self, late: Late) {
        self.timeouts.with_label_values(&[late.label()]).inc();
    }

    /// How many were late with this.
    pub fn late_so_far(&self, late: Late) -> u64 {
        self.timeouts.with_label_values(&[late.label()]).get()
    }

    pub(super) fn opened(&self) -> OpenConnection {
        self.open.inc();
        OpenConnection(self.open.clone())
    }

    pub(super) fn refused(&self) {
        self.refused.inc();
    }
}

/// Counts a connection as open until it is dropped.
pub(super) struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
