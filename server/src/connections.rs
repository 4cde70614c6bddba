//! Open connections: how many there may be, how long each may keep still, and how they end.

mod clock;
pub mod descriptors;
mod metrics;
mod refusal;
mod timed_stream;
pub mod tls;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::settings::Settings;
use clock::{ConnectionClock, Serving};
use refusal::Refusals;
use timed_stream::TimedStream;

pub use metrics::{ConnectionMetrics, Late};

/// Bytes that the head of a request may have; more are answered 431.
const MOST_HEAD_BYTES: usize = 64 << 10;
/// How long accepting pauses when the system has no room for a connection, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection may take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionRules {
    /// Connections open at once.
    pub max_connections: usize,
    /// For a TLS handshake, and for a request's head from its first byte.
    pub header_read_timeout: Duration,
    /// From a reply to the next request's first byte, and for a client that does not read.
    pub idle_timeout: Duration,
}

impl ConnectionRules {
    /// As the settings say.
    pub fn of(settings: &Settings) -> Self {
        Self {
            max_connections: settings.max_connections.get(),
            header_read_timeout: settings.header_read_timeout.0,
            idle_timeout: settings.idle_timeout.0,
        }
    }
}

/// Where clients come in.
pub struct Door {
    /// Accepts them.
    pub listener: TcpListener,
    /// What each may take up.
    pub rules: ConnectionRules,
    /// The certificate, where connections are TLS.
    pub tls: Option<TlsAcceptor>,
    /// Counts them.
    pub metrics: ConnectionMetrics,
}

impl Door {
    /// A door without TLS and with the bounds that are the defaults.
    pub fn plain(listener: TcpListener) -> Self {
        let rules = ConnectionRules::of(&Settings::default());
        Self { listener, rules, tls: None, metrics: ConnectionMetrics::default() }
    }

    /// Serves until `closing` is there, then waits until every connection has answered what it had begun.
    ///
    /// # Errors
    /// What the listener says when it breaks.
    pub async fn serve(self, router: Router, closing: impl Future<Output = ()>) -> io::Result<()> {
        let Self { listener, rules, tls, metrics } = self;
        // A semaphore cannot count further; no system has so many descriptors either.
        let slots = Arc::new(Semaphore::new(rules.max_connections.min(Semaphore::MAX_PERMITS)));
        let refusals = Refusals::new(rules.max_connections, tls.is_some());
        let opened = Arc::new(Opened { rules, tls, metrics, router });
        let graceful = GracefulShutdown::new();
        let mut closing = std::pin::pin!(closing);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut closing => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok((stream, peer)) => (stream, Peer(peer)),
                Err(error) if is_the_clients(&error) => continue,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted at the moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // A reply is written whole: holding its last segment back until the client acknowledges the others helps nobody.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection keeps its delay");
            }
            match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    tokio::spawn(Arc::clone(&opened).hold(stream, peer, slot, graceful.watcher()));
                }
                Err(_) => {
                    opened.metrics.refused();
                    refusals.refuse(stream);
                }
            }
        }
        drop(listener);
        graceful.shutdown().await;
        Ok(())
    }
}

/// Who is at the other end of a connection; an extension of each of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// The client was gone before it was let in.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// What every connection needs.
struct Opened {
    rules: ConnectionRules,
    tls: Option<TlsAcceptor>,
    metrics: ConnectionMetrics,
    router: Router,
}

impl Opened {
    /// Holds a connection to its end.
    async fn hold(
        self: Arc<Self>,
        stream: TcpStream,
        peer: Peer,
        slot: OwnedSemaphorePermit,
        watcher: Watcher,
    ) {
        let _held = (slot, self.metrics.opened());
        let Some(tls) = &self.tls else { return self.speak(stream, peer, watcher).await };
        match tokio::time::timeout(self.rules.header_read_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.speak(stream, peer, watcher).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => self.metrics.late(Late::Handshake),
        }
    }

    /// Speaks HTTP/1 until the connection ends.
    async fn speak(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        peer: Peer,
        watcher: Watcher,
    ) {
        let clock = Arc::new(ConnectionClock::new(self.rules));
        let stream = TimedStream::new(stream, Arc::clone(&clock), self.metrics.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let serving = clock.serving();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            let answer = self.router.clone().oneshot(request);
            async move {
                let Ok(response) = answer.await;
                Ok::<_, Infallible>(answered(response, serving))
            }
        });
        let connection = http1::Builder::new()
            // The stream keeps the time: hyper's own would count waiting between requests as reading a head.
            .header_read_timeout(None)
            .max_header_size(MOST_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// A reply that, written or dropped, lets its connection wait for the next request.
fn answered(response: Response<Body>, serving: Serving) -> Response<ReplyBody> {
    response.map(|body| ReplyBody { body, _serving: serving })
}

struct ReplyBody {
    body: Body,
    _serving: Serving,
}

impl HttpBody for ReplyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
