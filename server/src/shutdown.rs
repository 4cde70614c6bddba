//! Stopping: the first signal drains, the second ends, and so does the deadline: what is unanswered then gets 503.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use polylora_engine::EmbedError;
use tokio::sync::watch;

use crate::api_keys::ApiKeys;
use crate::connections::Door;
use crate::wire::error::ApiError;

/// How long the 503s of requests that were cut off may take on their way out.
const WRITING_GRACE: Duration = Duration::from_secs(1);

/// How far the server is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// No new connections; requests in flight are finished.
    Draining,
    /// Requests in flight are refused.
    Forced,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every request in flight was answered.
    Drained,
    /// The deadline passed, or a second signal came, with requests still in flight.
    CutOff,
}

/// Watches for SIGTERM and SIGINT (elsewhere for Ctrl-C) from now on, also while the model is loading.
///
/// # Errors
/// When the system does not let the process listen to them.
pub fn watch_signals() -> io::Result<watch::Receiver<Phase>> {
    let (sender, receiver) = watch::channel(Phase::Running);
    let mut signals = Signals::listen()?;
    tokio::spawn(async move {
        for phase in [Phase::Draining, Phase::Forced] {
            let name = signals.next().await;
            tracing::info!(signal = name, ?phase, "stopping");
            // Nobody watches any more when serving has ended by itself.
            if sender.send(phase).is_err() {
                return;
            }
        }
        // The last phase stays readable as long as somebody may still look.
        sender.closed().await;
    });
    Ok(receiver)
}

/// Reads the file of API keys again whenever SIGHUP comes, from now on. Elsewhere than on Unix nothing comes.
///
/// # Errors
/// When the system does not let the process listen to the signal.
pub fn reread_on_hangup(keys: Arc<ApiKeys>) -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangups = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                match keys.reload() {
                    Ok(keys) => tracing::info!(keys, "the file of API keys is read again"),
                    Err(error) => {
                        tracing::error!(%error, "the file of API keys is not read again; the old keys hold")
                    }
                }
            }
        });
    }
    #[cfg(not(unix))]
    drop(keys);
    Ok(())
}

/// The requests in flight, which can be told that their time is over.
#[derive(Clone, Debug, Default)]
pub struct CutOff(watch::Sender<bool>);

impl CutOff {
    /// Requests that are being answered.
    pub fn in_flight(&self) -> usize {
        self.0.receiver_count()
    }

    /// For a reply that is still being written when its handler is done: it counts among those in flight until this is dropped.
    pub(crate) fn watch(&self) -> CutOffWatch {
        CutOffWatch { over: self.0.subscribe(), _kept: self.clone() }
    }

    /// Lets every request in flight, and every later one, be answered with 503; says how many there were.
    pub fn now(&self) -> usize {
        let in_flight = self.in_flight();
        self.0.send_replace(true);
        in_flight
    }
}

/// Tells a reply on its way that its time is over.
#[derive(Debug)]
pub(crate) struct CutOffWatch {
    over: watch::Receiver<bool>,
    /// Without it the server's end would look like the cut.
    _kept: CutOff,
}

impl CutOffWatch {
    /// Waits until the reply's time is over. Nothing is lost when the future is dropped.
    pub(crate) async fn over(&mut self) {
        if self.over.wait_for(|&over| over).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Answers a request, or refuses it with 503 when it is cut off first.
///
/// # Errors
/// 503 with code `shutting_down`.
pub async fn until_cut_off(
    State(cut_off): State<CutOff>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let mut over = cut_off.0.subscribe();
    tokio::select! {
        // An answer that is there goes out.
        biased;
        response = next.run(request) => Ok(response),
        _ = over.wait_for(|&over| over) => Err(EmbedError::ShuttingDown.into()),
    }
}

/// What ends the serving.
#[derive(Clone, Debug)]
pub struct Stop {
    /// Announces the end.
    pub phase: watch::Receiver<Phase>,
    /// What requests in flight get to finish after the first announcement.
    pub drain: Duration,
    /// The requests that the routes answer.
    pub cut_off: CutOff,
}

/// Serves until the phase says otherwise, then gives requests in flight the time to finish that `stop` says, then refuses
/// them. Connections on which no whole request has come hold nobody up longer than that.
///
/// # Errors
/// What the listener says when it breaks.
pub async fn serve_until(door: Door, router: Router, stop: Stop) -> io::Result<Ended> {
    let Stop { phase, drain, cut_off } = stop;
    let server = door.serve(router, reached(phase.clone(), Phase::Draining));
    let deadline = async {
        reached(phase.clone(), Phase::Draining).await;
        tokio::select! {
            () = tokio::time::sleep(drain) => {}
            () = reached(phase, Phase::Forced) => {}
        }
    };
    let mut server = pin!(server);
    tokio::select! {
        result = &mut server => return result.map(|()| Ended::Drained),
        () = deadline => {}
    }
    match cut_off.now() {
        0 => Ok(Ended::Drained),
        // A client that does not read its refusal is not waited for.
        _ => tokio::time::timeout(WRITING_GRACE, server).await.unwrap_or(Ok(())).map(|()| Ended::CutOff),
    }
}

/// Waits for a phase. Without anybody who could announce it, it never comes.
pub async fn reached(mut phase: watch::Receiver<Phase>, wanted: Phase) {
    if phase.wait_for(|&now| now >= wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            Err(_) => std::future::pending().await,
        }
    }
}
