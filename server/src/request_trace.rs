//! The span of a request and those of its stages; never a text.

use std::time::{Duration, Instant, SystemTime};

use axum::http::{HeaderMap, Method, StatusCode};
use opentelemetry::global;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span as _, SpanBuilder, TraceContextExt, Tracer};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use polylora_engine::{StartTimings, Timings};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Opens the span of a request, under the caller's where the header `traceparent` names one. The fields are those of
/// OpenTelemetry's conventions for HTTP servers.
pub fn request_span(method: &Method, route: &str, id: &str, headers: &HeaderMap) -> Span {
    // Clients choose methods freely; spans are grouped by theirs.
    let method = if method.as_str().len() <= 7 { method.as_str() } else { "_OTHER" };
    let span = tracing::info_span!(
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        request_id = id,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        model = Empty,
        inputs = Empty,
        tokens = Empty,
    );
    if headers.contains_key("traceparent") {
        let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
        // Without an exporter there is nothing to hang it on.
        let _ = span.set_parent(parent);
    }
    span
}

/// Writes a request's end into its span.
pub fn record_status(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        record_failure(span);
    }
}

/// Writes a number of things into a span: exported as one, where an unsigned number would be a text.
pub fn record_count(span: &Span, field: &str, count: usize) {
    span.record(field, i64::try_from(count).unwrap_or(i64::MAX));
}

/// Marks the span of a request that the server failed.
pub fn record_failure(span: &Span) {
    span.record("otel.status_code", "ERROR");
}

/// The stages that the engine has measured of a request, one after the other; those that it did not go through are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Reading the texts.
    pub tokenize: Option<Duration>,
    /// Waiting for the device.
    pub queue: Option<Duration>,
    /// An embedding's time on it.
    pub compute: Option<Duration>,
    /// A text's time until its first token.
    pub prefill: Option<Duration>,
    /// A text's further tokens.
    pub decode: Option<Duration>,
}

impl From<Timings> for Stages {
    fn from(Timings { tokenize, queue, compute }: Timings) -> Self {
        Self { tokenize: Some(tokenize), queue: Some(queue), compute: Some(compute), ..Self::default() }
    }
}

impl From<StartTimings> for Stages {
    fn from(StartTimings { tokenize, queue, prefill }: StartTimings) -> Self {
        Self { tokenize: Some(tokenize), queue: Some(queue), prefill: Some(prefill), ..Self::default() }
    }
}

/// Puts the stages under the request's span: the last ended at `ended`.
pub fn record_stages(span: &Span, stages: &Stages, ended: Instant) {
    let context = span.context();
    if !context.span().span_context().is_sampled() {
        return;
    }
    let tracer = global::tracer("polylora");
    let mut end = SystemTime::now().checked_sub(ended.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
    let last_first = [
        ("decode", stages.decode),
        ("prefill", stages.prefill),
        ("compute", stages.compute),
        ("queue", stages.queue),
        ("tokenize", stages.tokenize),
    ];
    for (stage, took) in last_first.into_iter().filter_map(|(stage, took)| Some((stage, took?))) {
        let start = end.checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
        let span = SpanBuilder::from_name(stage).with_start_time(start);
        tracer.build_with_context(span, &context).end_with_timestamp(end);
        end = start;
    }
}

/// Milliseconds for a log line.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
