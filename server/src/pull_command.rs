//! `polylora pull NAME`: fetch and verify a model now rather than at the first start.

use std::io::{self, Write};

use polylora_hub::{Catalogue, ConfigError, HubConfig, PullError, Puller};

/// Why a model could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullCommandError {
    /// The settings of the cache cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No source has the model.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// Standard output cannot be written.
    #[error("standard output cannot be written")]
    Write(#[source] io::Error),
}

/// Pulls a model and prints the folder where it lies.
///
/// # Errors
/// [`PullCommandError`].
pub fn pull(name: &str) -> Result<(), PullCommandError> {
    let model = Puller::new(Catalogue::builtin(), HubConfig::from_env()?).pull(name)?;
    match writeln!(io::stdout(), "{}", model.path.display()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(PullCommandError::Write),
    }
}
