//! More requests than places: refused at their head, cheaply, and nobody else suffers.

use std::num::NonZeroUsize;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use polylora_server::settings::Settings;

use crate::fake_engine::{FakeEngine, Mood};
use crate::running::{Running, one_reply, post, post_head, until};

async fn full(places: usize) -> (Running, Vec<tokio::net::TcpStream>) {
    let max_concurrent_requests = NonZeroUsize::new(places).expect("above zero");
    let engine = FakeEngine { mood: Mood::Hangs, ..FakeEngine::default() };
    let running = Running::start(engine, Settings { max_concurrent_requests, ..Settings::default() }).await;
    let mut held = vec![];
    for _ in 0..places {
        held.push(running.send(&post("{\"input\":\"a\"}")).await);
    }
    until("the places are taken", || running.server.computed().len() == places).await;
    (running, held)
}

#[tokio::test]
async fn without_a_place_a_post_is_refused_before_its_body_is_there() {
    let (running, _held) = full(2).await;
    // Of this body nothing ever comes, and what would come is no JSON.
    let mut client = running.send(&post_head(1000)).await;
    let reply = one_reply(&mut client).await;
    assert!(reply.starts_with("HTTP/1.1 429") && reply.contains("retry-after: 1"), "{reply}");
    assert!(
        reply.contains(r#""type":"rate_limit_error","param":null,"code":"rate_limit_exceeded""#),
        "{reply}"
    );
    assert!(reply.contains("x-request-id: "), "{reply}");
    assert_eq!(running.server.computed().len(), 2);
}

#[tokio::test]
async fn a_refused_client_can_send_its_whole_body_and_use_its_connection_again() {
    let (running, mut held) = full(1).await;
    let mut client = running.connect().await;
    for size in [10, 1_000_000] {
        tokio::io::AsyncWriteExt::write_all(&mut client, post(&"x".repeat(size)).as_bytes())
            .await
            .expect("sent whole");
        assert!(one_reply(&mut client).await.starts_with("HTTP/1.1 429"), "{size}");
    }
    // What is no work is answered all the same.
    tokio::io::AsyncWriteExt::write_all(&mut client, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("sent");
    assert!(one_reply(&mut client).await.starts_with("HTTP/1.1 200"));
    // A place that is left is free at once.
    held.clear();
    let another = || async {
        let reply = running.server.post("{\"input\":").await;
        reply.status.as_u16()
    };
    let mut status = another().await;
    for _ in 0..1000 {
        if status == 400 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        status = another().await;
    }
    assert_eq!(status, 400, "the place of a client that went away is free");
}

#[tokio::test]
async fn a_body_on_its_way_holds_no_place() {
    let max_concurrent_requests = NonZeroUsize::MIN;
    let settings = Settings { max_concurrent_requests, ..Settings::default() };
    let running = Running::start(FakeEngine::default(), settings).await;
    let mut slow = vec![];
    for _ in 0..20 {
        slow.push(running.send(&post_head(1000)).await);
    }
    until("all have come", || running.server.cut_off.in_flight() == 20).await;
    assert_eq!(running.server.post("{\"input\":\"a\"}").await.status, 200);
}

#[tokio::test]
async fn the_other_methods_and_unknown_paths_need_no_place() {
    let (running, _held) = full(1).await;
    for path in ["/health", "/metrics", "/v1/models", "/"] {
        assert_eq!(running.server.get(path).await.status, 200, "{path}");
    }
    let request = Request::post("/nowhere").header(header::CONTENT_TYPE, "application/json");
    assert_eq!(running.server.send(request.body(Body::from("{}")).expect("a request")).await.status, 404);
}
