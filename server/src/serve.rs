//! `polylora serve`: the port first, then the model, then requests.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::assemble::{AssembleError, Assembly, start_engine};
use crate::routes::router;
use crate::settings::Settings;
use crate::shutdown::{Ended, Phase, reached, serve_until, watch_signals};
use crate::state::{AppState, NameClash};

/// Why the server does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Signals cannot be listened to.
    #[error("the process cannot listen to signals")]
    Signals(#[source] io::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {host}:{port} (--host, --port)")]
    Bind {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// The engine does not start.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// Starting the engine panicked.
    #[error("starting the engine failed on a bug: {reason}")]
    Panicked {
        /// What is known.
        reason: String,
    },
    /// An adapter cannot be told from the base model.
    #[error(transparent)]
    Names(#[from] NameClash),
    /// The listener broke.
    #[error("the listener on {address} broke")]
    Listener {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// Serves until a signal stops it.
///
/// The listener is bound before the model is loaded, so that a port in use is said at once; clients that connect meanwhile
/// wait until the model is there.
///
/// # Errors
/// [`ServeError`]; a stop by signal is none.
pub async fn serve(settings: Settings) -> Result<(), ServeError> {
    let phase = watch_signals().map_err(ServeError::Signals)?;
    let (listener, address) = bind(&settings.host, settings.port).await?;
    tracing::info!(%address, model = settings.embedding_model, "loading");
    let Some(assembly) = loaded(&settings, phase.clone()).await? else {
        tracing::info!("stopped while loading");
        return Ok(());
    };
    let state = AppState::new(assembly.service, &assembly.aliases, &settings)?;
    announce(address, &state, assembly.refused_adapters);
    let drain = Duration::from_secs(settings.shutdown_timeout);
    match serve_until(listener, router(state), phase, drain).await {
        Ok(Ended::Drained) => tracing::info!("stopped; every request in flight was answered"),
        Ok(Ended::CutOff) => {
            tracing::warn!("stopped with requests in flight: a second signal, or --shutdown-timeout passed")
        }
        Err(source) => return Err(ServeError::Listener { address, source }),
    }
    Ok(())
}

/// Binds the listener.
///
/// # Errors
/// [`ServeError::Bind`], which names host and port.
pub async fn bind(host: &str, port: u16) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Bind { host: host.to_owned(), port, source };
    let listener = TcpListener::bind((host, port)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// The engine, or `None` when a signal came first.
async fn loaded(settings: &Settings, phase: watch::Receiver<Phase>) -> Result<Option<Assembly>, ServeError> {
    let settings = settings.clone();
    let loading = tokio::task::spawn_blocking(move || start_engine(&settings, &[]));
    tokio::select! {
        joined = loading => match joined {
            Ok(result) => Ok(Some(result?)),
            Err(error) => Err(ServeError::Panicked { reason: (&error as &dyn Error).to_string() }),
        },
        () = reached(phase, Phase::Draining) => Ok(None),
    }
}

fn announce(address: SocketAddr, state: &AppState, refused: usize) {
    let models = state.models();
    tracing::info!(
        %address,
        model = models.names.primary(),
        device = models.base.device,
        dtype = models.base.dtype,
        adapters = models.adapters.len(),
        refused,
        api_key = state.api_key().is_some(),
        "serving"
    );
}
