//! Log lines on standard error, as text or JSON; standard output belongs to what a command prints.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::TryInitError;

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
    /// Something else of this process logs already.
    #[error("logging is set up twice in this process")]
    Twice(#[from] TryInitError),
}

/// Sets logging up for the process; `default_level` holds where the settings say none.
///
/// # Errors
/// [`TelemetryError`] for directives that cannot be read, or a second call.
pub fn init(settings: &Settings, default_level: &str) -> Result<(), TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt;

    let filter = filter(settings.log_level.as_ref().map_or(default_level, |level| level.as_str()))?;
    // A file or a collector has no use for escape sequences, and https://no-color.org asks for none.
    let colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours);
    match settings.log_format {
        LogFormat::Text => builder.finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
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
