//! Spans on their way to an OpenTelemetry collector: OTLP as protobuf over HTTP, in batches, from a thread of its own.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::settings::TracesEndpoint;

/// What the process is called where OTEL_SERVICE_NAME says nothing.
const SERVICE_NAME: &str = "polylora";
/// How long a collector may take for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the end of the process waits for the last batch.
const LAST_EXPORT: Duration = Duration::from_secs(2);
/// Bytes of a collector's reply that are read.
const MOST_REPLY_BYTES: u64 = 64 << 10;

/// The export of spans; dropping it sends what is left, for at most two seconds.
#[derive(Debug)]
pub struct TraceExport(SdkTracerProvider);

impl TraceExport {
    /// Starts the export. Queue, batches and sampling are OpenTelemetry's defaults and follow its environment
    /// (OTEL_TRACES_SAMPLER, OTEL_BSP_MAX_QUEUE_SIZE, …); a full queue drops spans, never requests.
    ///
    /// # Errors
    /// What the exporter says of its configuration.
    pub fn start(endpoint: &TracesEndpoint) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(CollectorClient::new(endpoint))
            .with_endpoint(endpoint.as_str())
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let mut resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        if std::env::var_os("OTEL_SERVICE_NAME").is_none_or(|name| name.is_empty()) {
            resource = resource.with_service_name(SERVICE_NAME);
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        // Spans of stages that are over already are made past `tracing`, which knows only now.
        opentelemetry::global::set_tracer_provider(provider.clone());
        Ok(Self(provider))
    }

    /// What makes spans.
    pub fn tracer(&self) -> SdkTracer {
        self.0.tracer(SERVICE_NAME)
    }
}

impl Drop for TraceExport {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_EXPORT) {
            tracing::debug!(%error, "the last spans were not taken");
        }
    }
}

/// Sends batches, blocking: the exporter's thread has nothing else to do.
struct CollectorClient {
    agent: ureq::Agent,
    is_failing: AtomicBool,
}

impl CollectorClient {
    fn new(endpoint: &TracesEndpoint) -> Self {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(EXPORT_TIMEOUT))
            .max_redirects(0);
        if endpoint.is_local() {
            config = config.proxy(None);
        }
        Self { agent: config.build().into(), is_failing: AtomicBool::new(false) }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let reply = self.agent.run(request.map(|body| body.to_vec()))?;
        let (parts, mut body) = reply.into_parts();
        let body = body.with_config().limit(MOST_REPLY_BYTES).read_to_vec()?;
        Ok(Response::from_parts(parts, body.into()))
    }

    /// Says once that the collector takes nothing, and once that it does again.
    fn tell(&self, failure: Option<&dyn fmt::Display>) {
        let was_failing = self.is_failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !was_failing => {
                tracing::warn!(%error, "the collector of traces takes no spans (--otlp-traces-endpoint)");
            }
            None if was_failing => tracing::info!("the collector of traces takes spans again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for CollectorClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.send(request);
        match &sent {
            Ok(reply) if reply.status().is_success() => self.tell(None),
            Ok(reply) => self.tell(Some(&format_args!("it answers {}", reply.status()))),
            Err(error) => self.tell(Some(error)),
        }
        Ok(sent?)
    }
}

impl fmt::Debug for CollectorClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectorClient").finish_non_exhaustive()
    }
}
