//! One log line and one count for each request, also for one whose client went away; never a text.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use polylora_engine::EmbedReply;
use tracing::{Instrument, Span};

use crate::request_trace::{Stages, milliseconds, record_count, record_stages, record_status, request_span};
use crate::routes::{METRICS, PROBES, STATUS};
use crate::state::AppState;
use crate::wire::error::ErrorCode;

/// The header that carries a request's id, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bytes of a client's id that are taken over; a longer one is replaced.
const MAX_ID_BYTES: usize = 128;
/// Characters of a path that are logged.
const MAX_PATH_CHARS: usize = 200;
/// nginx's status for a client that closed the connection before the reply.
const CLIENT_CLOSED: u16 = 499;

/// What a handler served, left in the response for the log line.
#[derive(Clone, Debug)]
pub struct Served {
    /// The name that was asked for, once it was found to exist.
    pub model: String,
    /// Inputs.
    pub inputs: usize,
    /// Tokens computed.
    pub tokens: usize,
    /// Whether more are to come: the span is told of all of them when the stream ends.
    pub goes_on: bool,
    /// Where the time went, and when the engine had replied, where that is known.
    pub stages: Option<(Stages, Instant)>,
}

impl Served {
    /// What a reply of the engine's served; to be called when it has come.
    pub fn reply(model: String, inputs: usize, reply: &EmbedReply) -> Self {
        let stages = Some((reply.timings.into(), Instant::now()));
        Self { model, inputs, tokens: reply.tokens, goes_on: false, stages }
    }

    /// What was served without the device.
    pub fn unmeasured(model: String, inputs: usize, tokens: usize) -> Self {
        Self { model, inputs, tokens, goes_on: false, stages: None }
    }
}

/// A request's id, for those who handle it: an extension of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub String);

/// Gives a request its id, logs it and counts it.
pub async fn record(State(state): State<Arc<AppState>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.to_str().unwrap_or_default().to_owned()));
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route_name = route_name(route.as_ref());
    let id_text = id.to_str().unwrap_or_default();
    let span = request_span(request.method(), route_name, id_text, request.headers());
    let mut line = Line {
        state,
        span: span.clone(),
        method: request.method().clone(),
        path: request.uri().path().chars().take(MAX_PATH_CHARS).collect(),
        route,
        id: id.to_str().unwrap_or_default().to_owned(),
        started: Instant::now(),
        written: false,
    };
    let mut response = next.run(request).instrument(span).await;
    let code = response.extensions().get::<ErrorCode>().copied();
    let served = response.extensions().get::<Served>();
    line.write(response.status(), served, code);
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// A line that is written when the reply is there, or else when the request is dropped.
struct Line {
    state: Arc<AppState>,
    span: Span,
    method: Method,
    path: String,
    route: Option<MatchedPath>,
    id: String,
    started: Instant,
    written: bool,
}

impl Line {
    fn write(&mut self, status: StatusCode, served: Option<&Served>, code: Option<ErrorCode>) {
        self.written = true;
        let latency = self.started.elapsed();
        let route = route_name(self.route.as_ref());
        self.state.http_metrics().observe(route, status, latency);
        record_status(&self.span, status);
        if let Some(served) = served {
            self.span.record("model", served.model.as_str());
            record_count(&self.span, "inputs", served.inputs);
            // What is recorded twice is exported twice.
            if !served.goes_on {
                record_count(&self.span, "tokens", served.tokens);
            }
            if let Some((stages, replied)) = &served.stages {
                record_stages(&self.span, stages, *replied);
            }
        }
        let latency_ms = milliseconds(latency);
        let stages = served.and_then(|served| served.stages).map(|(stages, _)| stages).unwrap_or_default();
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    method = %self.method,
                    path = %self.path,
                    status = status.as_u16(),
                    latency_ms,
                    request_id = %self.id,
                    model = served.map(|served| served.model.as_str()),
                    inputs = served.map(|served| served.inputs),
                    tokens = served.map(|served| served.tokens),
                    tokenize_ms = stages.tokenize.map(milliseconds),
                    queue_ms = stages.queue.map(milliseconds),
                    compute_ms = stages.compute.map(milliseconds),
                    prefill_ms = stages.prefill.map(milliseconds),
                    decode_ms = stages.decode.map(milliseconds),
                    code = code.map(|code| code.0),
                    "request"
                )
            };
        }
        match status {
            // Probes, scrapers and open pages come every few seconds.
            _ if status.is_success() && (PROBES.contains(&route) || [METRICS, STATUS].contains(&route)) => {
                line!(debug)
            }
            _ if status.is_server_error() => line!(warn),
            _ => line!(info),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.written {
            let status = StatusCode::from_u16(CLIENT_CLOSED).expect("a status of three digits");
            self.write(status, None, Some(ErrorCode("client_closed_request")));
        }
    }
}

fn route_name(route: Option<&MatchedPath>) -> &str {
    route.map_or("unmatched", MatchedPath::as_str)
}

/// The client's id where it is a sane one, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let theirs = headers.get(REQUEST_ID).filter(|id| {
        (1..=MAX_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    theirs.cloned().unwrap_or_else(|| {
        HeaderValue::try_from(made_id()).expect("hexadecimal digits and a dash make a header value")
    })
}

/// An id that no other request of this process has, and hardly one of another.
fn made_id() -> String {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{:016x}-{:x}", *PROCESS, NEXT.fetch_add(1, Ordering::Relaxed))
}
