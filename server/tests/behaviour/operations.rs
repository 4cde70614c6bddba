//! Health, metrics, the front page and request ids.

use axum::body::Body;
use axum::http::Request;
use polylora_engine::Health;
use polylora_server::settings::Settings;

use crate::fake_engine::{FakeEngine, Server};

#[tokio::test]
async fn health_is_200_only_when_ready_and_else_says_why() {
    for (health, expected) in [
        (Health::Ready, None),
        (Health::Starting, Some("starting")),
        (Health::Unavailable, Some("unavailable")),
    ] {
        let server = Server::with(FakeEngine { health, ..FakeEngine::default() }, Settings::default());
        let reply = server.get("/health").await;
        match expected {
            None => assert_eq!((reply.status.as_u16(), reply.text.as_str()), (200, r#"{"status":"ok"}"#)),
            Some(code) => assert_eq!(reply.error(), (503, code.into(), None)),
        }
    }
}

#[tokio::test]
async fn metrics_are_the_engines_and_the_http_sides_without_paths_that_clients_choose() {
    let server = Server::new();
    server.post("{\"input\":\"a\"}").await;
    server.post("{}").await;
    server.get("/v1/models/law").await;
    server.get("/made/up/by/a/client").await;
    let reply = server.get("/metrics").await;
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4"));
    for line in [
        "polylora_fake 1",
        r#"polylora_http_requests_total{route="/v1/embeddings",status="200"} 1"#,
        r#"polylora_http_requests_total{route="/v1/embeddings",status="400"} 1"#,
        r#"polylora_http_requests_total{route="/v1/models/{*id}",status="200"} 1"#,
        r#"polylora_http_requests_total{route="unmatched",status="404"} 1"#,
        r#"polylora_http_request_duration_seconds_count{route="/v1/embeddings"} 2"#,
    ] {
        assert!(reply.text.lines().any(|found| found == line), "{line} is not in\n{}", reply.text);
    }
    assert!(!reply.text.contains("made"));
}

#[tokio::test]
async fn the_front_page_names_the_endpoints() {
    let reply = Server::new().get("/").await;
    assert_eq!(reply.json()["name"], "polylora");
    assert_eq!(reply.json()["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        reply.json()["endpoints"]
            .as_array()
            .is_some_and(|all| all.iter().any(|path| path == "/v1/embeddings"))
    );
}

#[tokio::test]
async fn a_request_keeps_its_id_or_gets_one_of_its_own() {
    let server = Server::new();
    let with = |id: &str| {
        Request::get("/v1/models").header("x-request-id", id).body(Body::empty()).expect("a request")
    };
    assert_eq!(server.send(with("trace-7")).await.header("x-request-id"), Some("trace-7"));
    let long = "x".repeat(129);
    for odd in ["", "two words", &long] {
        let made = server.send(with(odd)).await;
        assert!(made.header("x-request-id").is_some_and(|id| id != odd && !id.is_empty()), "{odd}");
    }
    let (first, second) = (server.get("/nowhere").await, server.get("/nowhere").await);
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    assert!(first.header("x-request-id").is_some());
}

#[tokio::test]
async fn a_client_that_goes_away_is_counted_and_its_request_dropped() {
    let server = Server::in_mood(crate::fake_engine::Mood::Hangs);
    let waiting =
        tokio::time::timeout(std::time::Duration::from_millis(50), server.post("{\"input\":\"a\"}"));
    assert!(waiting.await.is_err());
    let metrics = server.get("/metrics").await.text;
    assert!(
        metrics.contains(r#"polylora_http_requests_total{route="/v1/embeddings",status="499"} 1"#),
        "{metrics}"
    );
}
