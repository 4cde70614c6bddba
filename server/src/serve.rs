//! `polylora serve`: the port first, then the model, then requests.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, lookup_host};

use crate::admin::AdminRules;
use crate::api_keys::{ApiKeys, ApiKeysError};
use crate::assemble::{AssembleError, Assembly, start_engine};
use crate::connections::tls::{self, TlsError};
use crate::connections::{ConnectionMetrics, ConnectionRules, Door, descriptors};
use crate::fleet_duty::FleetDuty;
use crate::routes::router;
use crate::settings::Settings;
use crate::shutdown::{CutOff, Ended, Phase, Stop, reached, reread_on_hangup, serve_until, watch_signals};
use crate::startup::Surface;
use crate::state::{AppState, Gatehouse, NameClash};

/// How long the end of the process waits for a batch that is on the device.
const DEVICE_GRACE: Duration = Duration::from_secs(2);

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
    /// The API keys cannot be used.
    #[error(transparent)]
    ApiKeys(#[from] ApiKeysError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
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
    /// The adapters directory cannot be watched.
    #[error(transparent)]
    Watch(#[from] polylora_adapters::WatchError),
    /// The record of changes cannot be opened.
    #[error("the record of changes in the state directory cannot be opened (--state-dir)")]
    Audit(#[source] io::Error),
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
/// are answered 503 with code `starting`, `/health` among them.
///
/// # Errors
/// [`ServeError`]; a stop by signal is none.
pub async fn serve(settings: Settings) -> Result<(), ServeError> {
    let phase = watch_signals().map_err(ServeError::Signals)?;
    let api_keys = Arc::new(ApiKeys::load(&settings)?);
    let admin = AdminRules::new(&settings).map_err(ServeError::Audit)?;
    let tls = tls::acceptor(&settings)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let (listener, address) = bind(&settings.host, settings.port, settings.connection_backlog.get()).await?;
    descriptors::make_room(settings.max_connections.get());
    let connections = ConnectionMetrics::default();
    let rules = ConnectionRules::of(&settings);
    let door = Door { listener, rules, tls, metrics: connections.clone() };
    if settings.api_key_file.is_some() {
        reread_on_hangup(Arc::clone(&api_keys)).map_err(ServeError::Signals)?;
    }
    tracing::info!(%address, model = %settings.embedding_model, llm = settings.llm, "loading");
    let (surface, cut_off) = (Surface::starting(), CutOff::default());
    let drain = Duration::from_secs(settings.shutdown_timeout);
    let stop = Stop { phase: phase.clone(), drain, cut_off: cut_off.clone() };
    let broke = |source| ServeError::Listener { address, source };
    let mut serving = pin!(serve_until(door, surface.router(), stop));
    let assembly = tokio::select! {
        // The first signal ends the loading, not only the deadline after it.
        () = reached(phase, Phase::Draining) => None,
        ended = &mut serving => ended.map(|_| None).map_err(broke)?,
        loaded = loaded(&settings) => Some(loaded?),
    };
    let Some(assembly) = assembly else {
        tracing::info!("stopped while loading");
        return Ok(());
    };
    let refused = assembly.refused_adapters.len();
    let state = AppState::behind(Gatehouse { api_keys, connections, admin }, assembly, &settings)?;
    let fleet = state.fleet().cloned();
    let duty = fleet.map(|fleet| FleetDuty::start(fleet, &settings)).transpose()?;
    surface.open(router(Arc::clone(&state), cut_off, &settings.allowed_origins));
    announce(address, scheme, &state, refused);
    let ended = serving.await;
    drop(duty);
    // Whoever is still in the engine is nobody's any more; the device is let go of in good order.
    let stopping = async {
        if let Some(llm) = state.llm() {
            llm.service().shutdown(Duration::ZERO).await;
        }
        if let Some(embedder) = state.embedder() {
            embedder.service().shutdown(Duration::ZERO).await;
        }
    };
    let stopped = tokio::time::timeout(DEVICE_GRACE, stopping).await;
    if stopped.is_err() {
        tracing::warn!("the device is still in a batch that nobody waits for; it ends with the process");
    }
    match ended {
        Ok(Ended::Drained) => tracing::info!("stopped; every request in flight was answered"),
        Ok(Ended::CutOff) => {
            tracing::warn!(
                "stopped; requests in flight were refused: a second signal came, or --shutdown-timeout passed"
            );
        }
        Err(source) => return Err(broke(source)),
    }
    Ok(())
}

/// Binds the listener; so many connections may wait in the system to be accepted.
///
/// # Errors
/// [`ServeError::Bind`], which names host and port.
pub async fn bind(host: &str, port: u16, backlog: usize) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Bind { host: host.to_owned(), port, source };
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host has no address");
    for address in lookup_host((host, port)).await.map_err(failed)? {
        match listen(address, backlog) {
            Ok(listener) => {
                let address = listener.local_addr().map_err(failed)?;
                return Ok((listener, address));
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn listen(address: SocketAddr, backlog: usize) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Elsewhere it would let two servers share a port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(u32::try_from(backlog).unwrap_or(u32::MAX))
}

async fn loaded(settings: &Settings) -> Result<Assembly, ServeError> {
    let settings = settings.clone();
    let loading = tokio::task::spawn_blocking(move || start_engine(&settings, &[]));
    match loading.await {
        Ok(result) => Ok(result?),
        Err(error) => Err(ServeError::Panicked { reason: error.to_string() }),
    }
}

fn announce(address: SocketAddr, scheme: &str, state: &AppState, refused: usize) {
    let model = state.embedder().map(|embedder| (embedder.names().primary(), embedder.service()));
    let (device, dtype) = match (model, state.llm().map(|llm| llm.service().model())) {
        (Some((_, service)), _) => (&service.model().device, &service.model().dtype),
        (None, Some(llm)) => (&llm.device, &llm.dtype),
        (None, None) => (&String::new(), &String::new()),
    };
    let of_llm = if model.is_some() { None } else { state.llm().map(|llm| llm.service().adapters().len()) };
    tracing::info!(
        %address,
        scheme,
        model = model.map(|(name, _)| name),
        device,
        dtype,
        adapters = model.map_or(0, |(_, service)| service.adapters().len()) + of_llm.unwrap_or(0),
        llm = state.llm().map(|llm| llm.names().primary()),
        refused,
        api_key = state.api_keys().are_needed(),
        "serving"
    );
}
