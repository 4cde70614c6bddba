//! Flags that say where spans go.

use clap::Args;

use super::put_some;
use crate::settings::{Settings, TracesEndpoint, parse_setting};

/// Tracing of requests.
#[derive(Debug, Default, Args)]
pub struct TraceFlags {
    /// OpenTelemetry collector that gets a trace of every request, e.g. http://localhost:4318/v1/traces [default: none].
    #[arg(long, value_name = "URL", value_parser = parse_setting::<TracesEndpoint>)]
    pub otlp_traces_endpoint: Option<TracesEndpoint>,
}

impl TraceFlags {
    /// Lays the flags that were given over the settings.
    pub fn lay_over(self, settings: &mut Settings) {
        put_some(&mut settings.otlp_traces_endpoint, self.otlp_traces_endpoint);
    }
}
