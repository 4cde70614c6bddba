//! Log lines on standard error, as text or JSON, and spans to a collector; standard output belongs to what a command
//! prints.

use std::io::{self, IsTerminal};

use opentelemetry_otlp::ExporterBuildError;
use tracing_subscriber::filter::{ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::otlp::TraceExport;
use crate::settings::{LogFormat, Settings};

/// Crates below the backends that log at `info` what interests only their makers.
const QUIET: [&str; 6] = ["wgpu_core", "wgpu_hal", "naga", "cubecl_runtime", "cubecl_wgpu", "cubecl_cuda"];

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The directives cannot be read.
    #[error("the log level `{found}` cannot be read")]
    Filter {
        /// The directives.
        found: String,
        /// What the reader says.
        source: ParseError,
    },
    /// Spans cannot be exported.
    #[error("spans cannot be exported (--otlp-traces-endpoint)")]
    Export(#[from] ExporterBuildError),
    /// Something else of this process logs already.
    #[error("logging is set up twice in this process")]
    Twice(#[from] TryInitError),
}

/// What must live as long as spans are to reach a collector.
#[derive(Debug)]
#[must_use = "dropping it ends the export of spans"]
pub struct Telemetry(#[expect(dead_code, reason = "it is there to be dropped")] Option<TraceExport>);

/// Sets logging up for the process; `default_level` holds where the settings say none.
///
/// # Errors
/// [`TelemetryError`] for directives that cannot be read, an exporter that cannot be built, or a second call.
pub fn init(settings: &Settings, default_level: &str) -> Result<Telemetry, TelemetryError> {
    let filter = filter(settings.log_level.as_ref().map_or(default_level, |level| level.as_str()))?;
    let export = settings.otlp_traces_endpoint.as_ref().map(TraceExport::start).transpose()?;
    let spans = export.as_ref().map(exported);
    tracing_subscriber::registry()
        .with(log_lines(settings.log_format).with_filter(filter))
        .with(spans)
        .try_init()?;
    Ok(Telemetry(export))
}

/// The layer that exports our own spans, whatever is logged. Log lines do not go with them.
pub fn exported<S>(export: &TraceExport) -> impl Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_opentelemetry::layer()
        .with_tracer(export.tracer())
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("polylora")))
}

fn log_lines(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    // A file or a collector has no use for escape sequences, and https://no-color.org asks for none.
    let colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

/// A bare level keeps the backends' crates at `warn`; directives are taken as they are.
fn filter(directives: &str) -> Result<EnvFilter, TelemetryError> {
    let mut all = directives.to_owned();
    if matches!(directives.to_ascii_lowercase().as_str(), "info" | "debug" | "trace") {
        for name in QUIET {
            all.push_str(&format!(",{name}=warn"));
        }
    }
    EnvFilter::try_new(&all).map_err(|source| TelemetryError::Filter { found: directives.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_keeps_the_backends_quiet_and_directives_are_left_alone() {
        let level = filter("info").expect("a level").to_string();
        assert!(level.contains("info") && level.contains("wgpu_core=warn"), "{level}");
        let directives = filter("info,wgpu_core=trace").expect("directives").to_string();
        assert!(directives.contains("wgpu_core=trace") && !directives.contains("naga"), "{directives}");
    }
}
