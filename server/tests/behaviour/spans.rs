//! What a collector of traces gets, and what it does not.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use polylora_engine::{GenerateError, Timings};
use polylora_server::otlp::TraceExport;
use polylora_server::settings::{Settings, parse_setting};
use polylora_server::telemetry::exported;
use prost::Message;
use tokio::sync::{Mutex, MutexGuard};
use tracing::Dispatch;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::SubscriberExt;

use crate::fake_engine::{FakeEngine, Server};
use crate::fake_llm::{LLM, LlmMood};
use crate::llm_server::LlmServer;

const CANARY: &str = "canary in a coal mine";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A collector that takes one batch a connection, and its address.
fn collector() -> (String, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (sender, batches) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut bytes = vec![];
            let mut piece = [0; 4096];
            let batch = loop {
                let count = stream.read(&mut piece).expect("read");
                bytes.extend_from_slice(&piece[..count]);
                let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
                let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
                assert!(head.starts_with("post /v1/traces "), "{head}");
                assert!(head.contains("content-type: application/x-protobuf"), "{head}");
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
                if bytes.len() >= end + 4 + length {
                    break bytes[end + 4..].to_vec();
                }
            };
            // Before the answer: when the export has ended, all that it sent is here.
            if sender.send(batch).is_err() {
                return;
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .expect("sent");
        }
    });
    (format!("http://{address}"), batches)
}

/// Has this thread's spans sent to a collector until the guards fall. One test at a time: a process has one exporter for the
/// spans of stages.
async fn exporting() -> (TraceExport, Receiver<Vec<u8>>, (DefaultGuard, MutexGuard<'static, ()>)) {
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    // While there is a single subscriber, tracing asks the thread that comes first to a place in the code whether anybody
    // listens there, and keeps the answer: a test without subscriber would silence the place for all.
    static ANOTHER: OnceLock<Dispatch> = OnceLock::new();
    ANOTHER.get_or_init(|| Dispatch::new(tracing_subscriber::registry()));
    let (address, batches) = collector();
    let export = TraceExport::start(&parse_setting(&address).expect("an address")).expect("an exporter");
    let subscriber = tracing_subscriber::registry().with(exported(&export));
    let guard = tracing::subscriber::set_default(subscriber);
    (export, batches, (guard, turn))
}

/// All spans that came, once the export has ended; none of them has the canary.
async fn spans_of(export: TraceExport, batches: &Receiver<Vec<u8>>) -> Vec<Span> {
    tokio::task::spawn_blocking(move || drop(export)).await.expect("sent");
    // A slow machine sends what there is before the last span has ended, and the rest at the end: all has come by now.
    let first = batches.recv_timeout(Duration::from_secs(20)).expect("a batch");
    let mut spans = vec![];
    for batch in std::iter::once(first).chain(batches.try_iter()) {
        assert!(!batch.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()));
        let batch = ExportTraceServiceRequest::decode(&batch[..]).expect("protobuf");
        let resource = batch.resource_spans[0].resource.as_ref().expect("a resource");
        assert!(resource.attributes.iter().any(|attribute| attribute.key == "service.name"));
        let scopes = batch.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        spans.extend(scopes.flat_map(|scope| scope.spans.clone()));
    }
    spans
}

/// The span of the request with this id.
fn of_request<'a>(spans: &'a [Span], id: &str) -> &'a Span {
    let found =
        spans.iter().find(|span| attribute(span, "request_id").is_some_and(|found| found.contains(id)));
    found.unwrap_or_else(|| panic!("no span of {id} among {} others", spans.len()))
}

/// When a stage of a request began and ended, in nanoseconds.
fn stage(spans: &[Span], request: &Span, name: &str) -> (u64, u64) {
    let found = spans.iter().find(|span| span.name == name && span.trace_id == request.trace_id);
    let span = found.unwrap_or_else(|| panic!("no span {name}"));
    assert_eq!(span.parent_span_id, request.span_id, "{name}");
    (span.start_time_unix_nano, span.end_time_unix_nano)
}

/// Asks for four tokens after the canary.
fn completion(id: &str, stream: bool) -> Request<Body> {
    let body = serde_json::json!({"model": LLM, "prompt": CANARY, "max_tokens": 4, "stream": stream});
    let request = Request::post("/v1/completions")
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-request-id", id);
    request.body(Body::from(body.to_string())).expect("a request")
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    Some(format!("{:?}", found.value.as_ref()?.value.as_ref()?))
}

#[tokio::test]
async fn a_trace_has_the_request_under_its_caller_and_its_stages_but_no_text() {
    let (export, batches, guards) = exporting().await;
    let ms = Duration::from_millis;
    let timings = Timings { tokenize: ms(1), queue: ms(20), compute: ms(300) };
    let server = Server::with(FakeEngine { timings, ..FakeEngine::default() }, Settings::default());
    let request = Request::post("/v1/embeddings")
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-request-id", "mine-7")
        .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    let body = format!("{{\"input\": [\"{CANARY}\", \"b\"], \"model\": \"law\"}}");
    assert_eq!(server.send(request.body(Body::from(body)).expect("a request")).await.status, 200);
    assert_eq!(server.post(format!("{{\"input\": {{\"{CANARY}\": 1}}}}")).await.status, 400);
    drop(guards);
    let spans = spans_of(export, &batches).await;
    let request = of_request(&spans, "mine-7");
    assert_eq!(request.name, "POST /v1/embeddings");
    assert_eq!(hex(&request.trace_id), TRACE);
    assert_eq!(hex(&request.parent_span_id), "00f067aa0ba902b7");
    assert!(attribute(request, "http.response.status_code").is_some_and(|status| status == "IntValue(200)"));
    assert!(attribute(request, "model").is_some_and(|model| model.contains("law")));
    let stage = |name: &str| stage(&spans, request, name);
    let (tokenize, queue, compute) = (stage("tokenize"), stage("queue"), stage("compute"));
    assert_eq!((tokenize.1, queue.1), (queue.0, compute.0));
    assert_eq!([tokenize, queue, compute].map(|(start, end)| (end - start) / 1_000_000), [1, 20, 300]);
    stage("read_body");
    let failed = spans.iter().find(|span| {
        attribute(span, "http.response.status_code").is_some_and(|status| status.contains("400"))
    });
    assert_ne!(failed.expect("the other request's span").trace_id, request.trace_id);
}

#[tokio::test]
async fn the_span_of_a_text_lasts_until_its_last_token_whether_it_is_streamed_or_not() {
    for stream in [false, true] {
        let (export, batches, guards) = exporting().await;
        let server = LlmServer::new();
        assert_eq!(server.server.send(completion("mine-8", stream)).await.status, 200);
        drop(guards);
        let spans = spans_of(export, &batches).await;
        let request = of_request(&spans, "mine-8");
        assert_eq!(request.name, "POST /v1/completions");
        let stages = ["tokenize", "queue", "prefill", "decode"].map(|name| stage(&spans, request, name));
        let took = stages.map(|(start, end)| (end - start) / 1_000_000);
        assert_eq!(took[..3], [2, 30, 400], "{stream}");
        assert_eq!((stages[0].1, stages[1].1), (stages[1].0, stages[2].0));
        // Two clocks are read one after the other.
        let gap = stages[3].0.abs_diff(stages[2].1);
        assert!(gap < 50_000_000, "{gap} ns between the first token and the others");
        assert!(stages[3].1 <= request.end_time_unix_nano, "{stream}");
        assert_eq!(request.status.as_ref().map_or(0, |status| status.code), StatusCode::Unset as i32);
        // The prompt's and the four that were drawn, told once.
        assert_eq!(request.attributes.iter().filter(|attribute| attribute.key == "tokens").count(), 1);
        let tokens = CANARY.split(' ').count() + 4;
        assert_eq!(attribute(request, "tokens"), Some(format!("IntValue({tokens})")), "{stream}");
    }
}

#[tokio::test]
async fn the_span_of_a_stream_that_the_server_fails_says_so() {
    let reason = "the device is gone".to_owned();
    let (export, batches, guards) = exporting().await;
    let server = LlmServer::in_mood(LlmMood::FailsAfter(2, GenerateError::Internal { reason }));
    assert_eq!(server.server.send(completion("mine-9", true)).await.status, 200);
    drop(guards);
    let spans = spans_of(export, &batches).await;
    let request = of_request(&spans, "mine-9");
    assert_eq!(request.status.as_ref().map(|status| status.code), Some(StatusCode::Error as i32));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
