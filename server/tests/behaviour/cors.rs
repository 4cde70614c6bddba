//! Pages of other origins: only those that are allowed, and a preflight needs no key.

use axum::body::Body;
use axum::http::{Method, Request, header};
use polylora_server::settings::{Settings, parse_setting};

use crate::fake_engine::{FakeEngine, Reply, Server};

const APP: &str = "https://app.example";

fn allowing(origins: &[&str]) -> Server {
    let allowed_origins = origins.iter().map(|origin| parse_setting(origin).expect("an origin")).collect();
    let api_key = vec![parse_setting("s3cret").expect("a key")];
    Server::with(FakeEngine::default(), Settings { allowed_origins, api_key, ..Settings::default() })
}

async fn preflight(server: &Server, origin: &str) -> Reply {
    let request = Request::builder()
        .method(Method::OPTIONS)
        .uri("/v1/embeddings")
        .header(header::ORIGIN, origin)
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
        .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization,content-type,x-request-id");
    server.send(request.body(Body::empty()).expect("a request")).await
}

async fn ask(server: &Server, origin: &str, key: &str) -> Reply {
    let request = Request::get("/v1/models")
        .header(header::ORIGIN, origin)
        .header(header::AUTHORIZATION, format!("Bearer {key}"));
    server.send(request.body(Body::empty()).expect("a request")).await
}

#[tokio::test]
async fn a_preflight_of_an_allowed_origin_is_answered_without_a_key() {
    let reply = preflight(&allowing(&["http://other", APP]), APP).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), Some(APP));
    assert_eq!(reply.header("access-control-allow-headers"), Some("authorization,content-type,x-request-id"));
    assert!(reply.header("access-control-allow-methods").is_some_and(|methods| methods.contains("POST")));
    assert!(reply.header("access-control-allow-credentials").is_none());
    assert!(reply.header("vary").is_some_and(|vary| vary.contains("origin")));
}

#[tokio::test]
async fn another_origin_is_allowed_nothing() {
    let server = allowing(&[APP]);
    for origin in ["https://evil.example", "https://app.example.evil", "http://app.example", "null"] {
        for reply in [preflight(&server, origin).await, ask(&server, origin, "s3cret").await] {
            assert!(reply.header("access-control-allow-origin").is_none(), "{origin}");
        }
    }
}

#[tokio::test]
async fn replies_and_refusals_can_be_read_by_an_allowed_page() {
    let server = allowing(&[APP]);
    for (key, status) in [("s3cret", 200), ("wrong", 401)] {
        let reply = ask(&server, APP, key).await;
        assert_eq!(reply.status.as_u16(), status);
        assert_eq!(reply.header("access-control-allow-origin"), Some(APP));
        assert_eq!(reply.header("access-control-expose-headers"), Some("*"));
    }
    let any = allowing(&["*"]);
    assert_eq!(ask(&any, "null", "s3cret").await.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn without_the_setting_no_reply_says_anything_of_origins() {
    let server = allowing(&[]);
    let reply = preflight(&server, APP).await;
    assert_eq!(reply.status, 401);
    assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("access-control")));
}
