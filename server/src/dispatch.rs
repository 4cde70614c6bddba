//! From a parsed command line to its end: settings, logging, runtime, command, exit status.

use std::error::Error;
use std::io;
use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::adapters_command::{AdaptersCommandError, adapters};
use crate::bench_command::{BenchCommandError, BenchJob, LanguageJob, bench, bench_language};
use crate::cli::{Cli, Command};
use crate::embed_command::{EmbedCommandError, EmbedJob, embed};
use crate::pull_command::{PullCommandError, pull};
use crate::serve::{ServeError, serve};
use crate::settings::{EmbeddingModelChoice, Environment, Settings, SettingsError, load};
use crate::telemetry::{self, TelemetryError};

/// How long the end of the process waits for idle threads to be gone, which is a matter of milliseconds.
const THREADS_GRACE: Duration = Duration::from_secs(1);

/// Why the program ends without success.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Logging could not be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The runtime could not be started.
    #[error("the threads of the program could not be started")]
    Runtime(#[source] io::Error),
    /// `serve` failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// `embed` failed.
    #[error(transparent)]
    Embed(#[from] EmbedCommandError),
    /// `pull` failed.
    #[error(transparent)]
    Pull(#[from] PullCommandError),
    /// `bench` failed.
    #[error(transparent)]
    Bench(#[from] BenchCommandError),
    /// `adapters` failed.
    #[error(transparent)]
    Adapters(#[from] AdaptersCommandError),
}

impl Failure {
    /// The exit status: 2 for what was asked wrongly, as clap has it, and 1 for what went wrong.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Telemetry(_) | Self::Embed(EmbedCommandError::NoTexts) => 2,
            Self::Bench(error) if error.is_usage() => 2,
            Self::Adapters(error) if error.is_usage() => 2,
            Self::Runtime(_)
            | Self::Serve(_)
            | Self::Embed(_)
            | Self::Pull(_)
            | Self::Bench(_)
            | Self::Adapters(_) => 1,
        }
    }

    /// The failure and its causes, a line each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("error: {}", one_line(self))];
        let mut cause = self.source();
        while let Some(error) = cause {
            lines.push(format!("  because: {}", one_line(error)));
            cause = error.source();
        }
        lines
    }
}

/// Does what the command line says.
///
/// # Errors
/// [`Failure`], which knows its exit status.
pub fn run(cli: Cli, environment: &Environment) -> Result<(), Failure> {
    match cli.into_command() {
        Command::Serve(flags) => {
            let mut settings = load(flags.engine.config.as_deref(), environment)?;
            flags.lay_over(&mut settings);
            started(&settings, "info", |runtime| Ok(runtime.block_on(serve(settings.clone()))?))
        }
        Command::Embed(flags) => {
            let mut settings = load(flags.engine.config.as_deref(), environment)?;
            flags.engine.lay_over(&mut settings);
            // What is bounded for clients is not for whoever owns the machine.
            settings.max_input_chars = NonZeroUsize::MAX;
            let job = EmbedJob { adapter: flags.adapter, format: flags.format, texts: flags.texts };
            started(&settings, "warn", |runtime| Ok(runtime.block_on(embed(settings.clone(), job))?))
        }
        Command::Pull(flags) => {
            let _telemetry = telemetry::init(&load(None, environment)?, "info")?;
            Ok(pull(&flags.name)?)
        }
        Command::Bench(flags) => {
            let mut settings = load(None, environment)?;
            if let Some(model) = flags.model {
                settings.embedding_model = EmbeddingModelChoice(Some(model));
            }
            settings.threads = flags.threads.or(settings.threads);
            let _telemetry = telemetry::init(&settings, "info")?;
            if let Some(config) = flags.random_weights {
                let job = LanguageJob {
                    config,
                    dtypes: flags.dtype,
                    adapters: flags.adapters,
                    rank: flags.rank.get(),
                    budget: flags.seconds.0,
                    json: flags.json,
                };
                return Ok(bench_language(&settings, &job)?);
            }
            let job = BenchJob {
                dtypes: flags.dtype,
                batches: flags.batch,
                tokens: flags.tokens,
                budget: flags.seconds.0,
                json: flags.json,
            };
            Ok(bench(&settings, &job)?)
        }
        Command::Adapters(flags) => {
            let variable =
                |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
            Ok(adapters(*flags, &variable)?)
        }
    }
}

fn started(
    settings: &Settings,
    default_level: &str,
    command: impl FnOnce(&Runtime) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let _telemetry = telemetry::init(settings, default_level)?;
    let runtime =
        Builder::new_multi_thread().thread_name("http").enable_all().build().map_err(Failure::Runtime)?;
    let result = command(&runtime);
    // A thread that has called a GPU's driver must not end while the driver's own clean-up at exit runs: Mesa then frees
    // what the thread left behind twice. But a model that is still loading must not hold the process up.
    runtime.shutdown_timeout(THREADS_GRACE);
    result
}

fn one_line(error: &dyn Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_with_its_causes_a_line_each() {
        let source = io::Error::new(io::ErrorKind::AddrInUse, "in\nuse");
        let failure = Failure::from(ServeError::Bind { host: "::1".into(), port: 80, source });
        assert_eq!(failure.lines(), ["error: cannot listen on ::1:80 (--host, --port)", "  because: in use"]);
        assert_eq!(failure.exit_code(), 1);
    }

    #[test]
    fn a_slip_in_the_settings_is_a_usage_error() {
        let reason = "unknown".to_owned();
        let failure = Failure::from(SettingsError::Together { reason });
        assert_eq!(failure.exit_code(), 2);
    }
}
