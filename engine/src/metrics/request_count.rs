//! Counts a request from its arrival to its end, however it ends.

use std::time::Instant;

use super::{Metrics, seconds};
use crate::EmbedError;
use crate::error::Blame;

/// One request in flight.
#[derive(Debug)]
pub(crate) struct RequestCount<'a> {
    metrics: &'a Metrics,
    began: Instant,
    outcome: &'static str,
}

impl<'a> RequestCount<'a> {
    /// The request has come in.
    pub(super) fn begin(metrics: &'a Metrics) -> Self {
        metrics.requests_in_flight.inc();
        Self { metrics, began: Instant::now(), outcome: "cancelled" }
    }

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
        let took = self.began.elapsed();
        self.metrics.request_seconds.observe(seconds(took));
        if self.outcome == "ok" {
            self.metrics.lately.answered(took);
        }
    }
}
