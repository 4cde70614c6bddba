//! With a key set, nothing but the health check is answered without it.

use axum::body::Body;
use axum::http::{Request, header};
use polylora_server::settings::{Settings, parse_setting};

use crate::fake_engine::{FakeEngine, Reply, Server};

fn locked() -> Server {
    let api_key = vec![parse_setting("0ther").expect("a key"), parse_setting("s3cret").expect("a key")];
    Server::with(FakeEngine::default(), Settings { api_key, ..Settings::default() })
}

async fn get_with(server: &Server, path: &str, authorization: &str) -> Reply {
    let request = Request::get(path).header(header::AUTHORIZATION, authorization);
    server.send(request.body(Body::empty()).expect("a request")).await
}

#[tokio::test]
async fn without_the_key_everything_but_health_is_401() {
    let server = locked();
    for path in [
        "/",
        "/v1/models",
        "/v1/models/law",
        "/v1/embeddings",
        "/metrics",
        "/nowhere",
        "/health/",
        "//health",
    ] {
        let reply = server.get(path).await;
        assert_eq!(reply.error(), (401, "invalid_api_key".into(), None), "{path}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(server.post("{\"input\":\"a\"}").await.error().0, 401);
    assert!(server.computed().is_empty());
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_wrong_key_is_401_and_shows_neither_key() {
    let server = locked();
    for authorization in
        ["Bearer s3cre", "Bearer s3crets", "Bearer ", "Bearer", "s3cret", "Basic s3cret", "Bearer S3CRET", ""]
    {
        let reply = get_with(&server, "/v1/models", authorization).await;
        assert_eq!(reply.error().0, 401, "{authorization}");
        assert!(!reply.text.to_lowercase().contains("s3cre"));
    }
}

#[tokio::test]
async fn the_key_opens_and_the_scheme_has_no_case() {
    let server = locked();
    for authorization in ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret", "Bearer 0ther"] {
        assert_eq!(get_with(&server, "/v1/models", authorization).await.status, 200, "{authorization}");
    }
    assert_eq!(get_with(&server, "/nowhere", "Bearer s3cret").await.error().0, 404);
}

#[tokio::test]
async fn without_a_key_set_any_key_will_do() {
    assert_eq!(get_with(&Server::new(), "/v1/models", "Bearer sk-whatever").await.status, 200);
}

#[tokio::test]
async fn metrics_are_public_where_that_is_asked_for() {
    let api_key = vec![parse_setting("s3cret").expect("a key")];
    let settings = Settings { api_key, public_metrics: true, ..Settings::default() };
    let server = Server::with(FakeEngine::default(), settings);
    assert_eq!(server.get("/metrics").await.status, 200);
    assert_eq!(server.get("/v1/models").await.status, 401);
}
