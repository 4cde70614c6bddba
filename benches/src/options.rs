//! What every bench program can be told.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use polylora_hub::{Catalogue, ConfigError, HubConfig, PullError, Puller};
use polylora_kernels::device::DTypeSpec;
use polylora_kernels::team::{self, TeamStarted};

/// Options that all bench programs share.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// Directory of all-MiniLM-L6-v2 [default: the model cache; fetched when it is not there].
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// CPU threads [default: one a core].
    #[arg(long)]
    pub threads: Option<NonZeroUsize>,
    /// Number format: auto, f32, bf16, int8 or f16.
    #[arg(long, default_value_t = DTypeSpec::F32)]
    pub dtype: DTypeSpec,
    /// About how long each figure is measured.
    #[arg(long, default_value_t = 0.8)]
    pub seconds: f64,
    /// How often a figure is measured at most, when other programs use the CPU meanwhile.
    #[arg(long, default_value_t = 3)]
    pub tries: usize,
    /// JSON lines instead of tables.
    #[arg(long)]
    pub json: bool,
    /// What `cargo bench` adds; of no effect.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// Why there is no model or there are no threads.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cache's settings are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model could not be had.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The threads could not be started.
    #[error(transparent)]
    Threads(#[from] TeamStarted),
    /// So could those that tokenise.
    #[error(transparent)]
    Tokenizing(#[from] rayon::ThreadPoolBuildError),
}

impl RunOptions {
    /// Starts the compute threads and finds the model's directory.
    ///
    /// # Errors
    /// When either fails.
    pub fn start(&self) -> Result<PathBuf, StartError> {
        if let Some(threads) = self.threads {
            team::set_threads(threads)?;
            rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
        }
        match &self.model {
            Some(dir) => Ok(dir.clone()),
            None => {
                Ok(Puller::new(Catalogue::builtin(), HubConfig::from_env()?).pull("all-MiniLM-L6-v2")?.path)
            }
        }
    }

    /// Time for each figure.
    pub fn budget(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.clamp(0.01, 600.0))
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        team::threads()
    }
}
