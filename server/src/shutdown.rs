//! Stopping: the first signal drains, the second ends, and so does the deadline.

use std::future::IntoFuture;
use std::io;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How far the server is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// No new connections; requests in flight are finished.
    Draining,
    /// Requests in flight are dropped.
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

/// Serves until the phase says otherwise, then gives requests in flight `drain` to finish.
///
/// # Errors
/// What the listener says when it breaks.
pub async fn serve_until(
    listener: TcpListener,
    router: Router,
    phase: watch::Receiver<Phase>,
    drain: Duration,
) -> io::Result<Ended> {
    let server =
        axum::serve(listener, router).with_graceful_shutdown(reached(phase.clone(), Phase::Draining));
    let deadline = async {
        reached(phase.clone(), Phase::Draining).await;
        tokio::select! {
            () = tokio::time::sleep(drain) => {}
            () = reached(phase, Phase::Forced) => {}
        }
    };
    tokio::select! {
        result = server.into_future() => result.map(|()| Ended::Drained),
        () = deadline => Ok(Ended::CutOff),
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
