//! Connections through a real socket: what is slow, idle, too many or no HTTP.

use std::num::NonZeroUsize;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use polylora_server::connections::{ConnectionMetrics, Late};
use polylora_server::settings::Settings;
use polylora_server::shutdown::{Ended, Phase};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fake_engine::{FakeEngine, Mood, Server};
use crate::running::{Running, one_reply, patient, post, post_head, to_end, until};

const NEVER: u64 = 600_000;
const HEALTH: &str = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";

async fn with(settings: Settings) -> Running {
    Running::start(FakeEngine::default(), settings).await
}

fn at_most(connections: usize) -> Settings {
    let max_connections = NonZeroUsize::new(connections).expect("above zero");
    Settings { max_connections, ..patient(Settings::default(), NEVER, NEVER, NEVER) }
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_cut_off_however_many_bytes_came() {
    let running = with(patient(Settings::default(), 300, NEVER, NEVER)).await;
    let client = running.send("GET /health HTTP/1.1\r\n").await;
    let (reader, mut writer) = client.into_split();
    let dripping = tokio::spawn(async move {
        // The server ends it; a test that waits in vain ends at the reader.
        while writer.write_all(b"x-drip: 1\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut reader = reader;
    let mut rest = vec![];
    let read = tokio::time::timeout(crate::running::PATIENCE, reader.read_to_end(&mut rest)).await;
    assert!(read.is_ok() && rest.is_empty(), "{rest:?}");
    dripping.abort();
    assert_eq!(running.metrics.late_so_far(Late::Header), 1);
    until("the connection is gone", || running.metrics.open_connections() == 0).await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_ever_comes_has_the_time_of_a_head() {
    let running = with(patient(Settings::default(), 100, NEVER, NEVER)).await;
    assert_eq!(to_end(running.connect().await).await, "");
    assert_eq!(running.metrics.late_so_far(Late::Header), 1);
}

#[tokio::test]
async fn a_connection_without_a_next_request_has_the_idle_time_and_serves_until_then() {
    let running = with(patient(Settings::default(), NEVER, NEVER, 300)).await;
    let mut client = running.connect().await;
    for _ in 0..3 {
        client.write_all(HEALTH.as_bytes()).await.expect("sent");
        assert!(one_reply(&mut client).await.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(to_end(client).await, "");
    assert_eq!(running.metrics.late_so_far(Late::Idle), 1);
}

#[tokio::test]
async fn waiting_between_requests_is_not_the_time_of_a_head() {
    let running = with(patient(Settings::default(), 100, NEVER, NEVER)).await;
    let mut client = running.send(HEALTH).await;
    one_reply(&mut client).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    client.write_all(HEALTH.as_bytes()).await.expect("sent");
    assert!(one_reply(&mut client).await.starts_with("HTTP/1.1 200"));
    // And the second head has its time again.
    client.write_all(b"GET /heal").await.expect("sent");
    assert_eq!(to_end(client).await, "");
    assert_eq!(running.metrics.late_so_far(Late::Header), 1);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_408_and_the_connection_ends() {
    let running = with(patient(Settings::default(), NEVER, 200, NEVER)).await;
    let mut client = running.send(&post_head(1000)).await;
    client.write_all(b"{\"input\": \"a").await.expect("sent");
    let reply = to_end(client).await;
    assert!(reply.starts_with("HTTP/1.1 408") && reply.contains("body_timeout"), "{reply}");
    assert!(reply.contains("connection: close") && reply.contains("x-request-id: "), "{reply}");
    assert_eq!(running.metrics.late_so_far(Late::Body), 1);
    assert!(running.server.computed().is_empty());
}

#[tokio::test]
async fn a_request_that_is_computed_for_long_is_no_idle_connection() {
    let engine = FakeEngine { mood: Mood::Sleeps(Duration::from_millis(500)), ..FakeEngine::default() };
    let running = Running::start(engine, patient(Settings::default(), 100, 100, 100)).await;
    let mut client = running.send(&post("{\"input\":\"a\"}")).await;
    assert!(one_reply(&mut client).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_client_that_does_not_read_its_reply_is_let_go() {
    // More than the system's buffers take.
    let router = Router::new().route("/", get(|| async { vec![0_u8; 256 << 20] }));
    let server = Server { router, ..Server::new() };
    let settings = patient(Settings::default(), NEVER, NEVER, 200);
    let running = Running::open(server, settings, ConnectionMetrics::default()).await;
    let _client = running.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until("the client is let go", || running.metrics.late_so_far(Late::Reading) == 1).await;
    until("the connection is gone", || running.metrics.open_connections() == 0).await;
}

#[tokio::test]
async fn a_client_that_reads_its_reply_slowly_gets_it_whole() {
    const SIZE: usize = 64 << 20;
    let router = Router::new().route("/", get(|| async { vec![0_u8; SIZE] }));
    let server = Server { router, ..Server::new() };
    let settings = patient(Settings::default(), NEVER, NEVER, 1000);
    let running = Running::open(server, settings, ConnectionMetrics::default()).await;
    let mut client = running.send("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let (mut piece, mut came) = (vec![0; 1 << 20], 0);
    loop {
        let count = client.read(&mut piece).await.expect("read");
        if count == 0 {
            break;
        }
        came += count;
        // Several times the idle time in all.
        if came < SIZE / 2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert!(came > SIZE, "{came}");
    assert_eq!(running.metrics.late_so_far(Late::Reading) + running.metrics.late_so_far(Late::Idle), 0);
}

#[tokio::test]
async fn connections_over_the_bound_are_429_and_the_others_go_on() {
    let running = with(at_most(2)).await;
    let mut first = running.send(HEALTH).await;
    one_reply(&mut first).await;
    let _second = running.connect().await;
    until("two are open", || running.metrics.open_connections() == 2).await;
    for request in [HEALTH.to_owned(), post("{\"input\":\"a\"}"), String::new(), "x".repeat(100_000)] {
        let reply = running.exchange(&request).await;
        assert!(reply.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{reply}");
        assert!(reply.contains("retry-after: 1") && reply.contains("connection: close"), "{reply}");
        let (_, body) = reply.split_once("\r\n\r\n").expect("a body");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["error"]["code"], "too_many_connections");
        assert_eq!(body["error"]["type"], "rate_limit_error");
    }
    first.write_all(HEALTH.as_bytes()).await.expect("sent");
    assert!(one_reply(&mut first).await.starts_with("HTTP/1.1 200"));
    drop(first);
    until("one is gone", || running.metrics.open_connections() == 1).await;
    assert!(one_reply(&mut running.send(HEALTH).await).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn what_is_no_http_is_a_4xx_and_harms_nobody() {
    let running = with(Settings::default()).await;
    let long = "x".repeat(100_000);
    for (sent, status) in [
        ("\x16\x03\x01\x02\x00\x01\x00\x01\u{7f}\r\n\r\n".to_owned(), "400"),
        ("hello\r\n\r\n".to_owned(), "400"),
        ("GET /health HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nno colon here\r\n\r\n".to_owned(), "400"),
        ("POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: ten\r\n\r\n".to_owned(), "400"),
        ("POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n".to_owned(), "400"),
        (
            "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"
                .to_owned(),
            "400",
        ),
        (format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200)), "431"),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), "4"),
    ] {
        let reply = running.exchange(&sent).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{sent:.60}: {reply:.200}");
    }
    let chunked = "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
                   transfer-encoding: chunked\r\n\r\nZZ\r\nnope\r\n0\r\n\r\n";
    let reply = running.exchange(chunked).await;
    assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("body_unreadable"), "{reply}");
    assert!(one_reply(&mut running.send(HEALTH).await).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn head_and_options_are_answered_without_a_body() {
    let running = with(Settings::default()).await;
    for (request, status, allow) in [
        ("HEAD /health", "200", None),
        ("HEAD /v1/models", "200", None),
        ("HEAD /nowhere", "404", None),
        ("HEAD /v1/embeddings", "405", Some("POST")),
        ("OPTIONS /v1/embeddings", "204", Some("POST")),
        ("OPTIONS /v1/models", "204", Some("GET,HEAD")),
        ("OPTIONS *", "204", None),
        ("CONNECT example.org:443", "4", None),
    ] {
        let reply =
            running.exchange(&format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {reply}");
        if let Some(allow) = allow {
            assert!(reply.contains(&format!("allow: {allow}\r\n")), "{request}: {reply}");
        }
        let body = reply.split_once("\r\n\r\n").expect("a head").1;
        assert!(body.is_empty() || request.starts_with("CONNECT"), "{request}: {reply}");
    }
}

#[tokio::test]
async fn idle_connections_are_closed_at_once_when_the_server_stops() {
    let running = with(patient(Settings::default(), NEVER, NEVER, NEVER)).await;
    let mut idle = running.send(HEALTH).await;
    one_reply(&mut idle).await;
    running.phase.send(Phase::Draining).expect("watched");
    assert_eq!(to_end(idle).await, "");
    let ended = tokio::time::timeout(crate::running::PATIENCE, running.ended).await;
    assert_eq!(ended.expect("soon").expect("no panic").expect("no error"), Ended::Drained);
    assert_eq!(running.metrics.open_connections(), 0);
}
