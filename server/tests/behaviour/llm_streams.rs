//! Streams whose client goes away, whose engine fails, or whose server stops.

use std::num::NonZeroUsize;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use polylora_engine::GenerateError;
use polylora_server::connections::ConnectionMetrics;
use polylora_server::settings::Settings;
use polylora_server::shutdown::{Ended, Phase};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::fake_llm::{FakeLlm, LlmMood};
use crate::llm_server::{LlmServer, events_in};
use crate::running::{Running, patient, to_end, until};

const BODY: &str = r#"{"prompt": "a", "n": 2, "stream": true}"#;

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A stream of which so many bytes have been read that it is under way.
async fn under_way(running: &Running) -> TcpStream {
    let mut client = running.send(&post("/v1/completions", BODY)).await;
    let mut read = String::new();
    while !read.contains("data: ") {
        let mut piece = [0; 4096];
        let count = client.read(&mut piece).await.expect("read");
        assert!(count > 0, "ended: {read}");
        read.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    client
}

async fn running(mood: LlmMood, settings: Settings) -> (Running, LlmServer) {
    let llm = LlmServer::with(FakeLlm { mood, ..FakeLlm::default() }, settings.clone());
    let LlmServer { server, llm } = llm;
    let router = server.router.clone();
    let kept = LlmServer {
        server: crate::fake_engine::Server {
            engine: server.engine.clone(),
            router,
            cut_off: server.cut_off.clone(),
        },
        llm,
    };
    (Running::open(server, settings, ConnectionMetrics::default()).await, kept)
}

#[tokio::test]
async fn a_client_that_goes_away_aborts_its_request() {
    for mood in [LlmMood::HangsAfter(1), LlmMood::NeverStarts] {
        let (running, server) = running(mood.clone(), Settings::default()).await;
        let client = match mood {
            LlmMood::NeverStarts => {
                let client = running.send(&post("/v1/completions", BODY)).await;
                until("the engine was asked", || server.asked().len() == 1).await;
                client
            }
            _ => under_way(&running).await,
        };
        assert_eq!(server.aborted(), 0);
        drop(client);
        until("the request is aborted", || server.aborted() == 1).await;
    }
}

#[tokio::test]
async fn a_whole_reply_that_nobody_waits_for_is_aborted_too() {
    let (running, server) = running(LlmMood::HangsAfter(1), Settings::default()).await;
    let body = r#"{"prompt": ["a", "b"], "n": 2}"#;
    let client = running.send(&post("/v1/completions", body)).await;
    until("the engine was asked", || server.asked().len() == 2).await;
    drop(client);
    until("both prompts are aborted", || server.aborted() == 2).await;
}

#[tokio::test]
async fn an_error_in_the_middle_is_the_last_event_and_the_other_prompts_are_aborted() {
    for (mood, code) in [
        (LlmMood::FailsAfter(3, GenerateError::Internal { reason: "x".into() }), "internal_error"),
        (LlmMood::FailsAfter(1, GenerateError::ShuttingDown), "shutting_down"),
        (LlmMood::BreaksOffAfter(2), "internal_error"),
    ] {
        for (path, body) in [
            ("/v1/completions", json!({"prompt": "a", "n": 2})),
            ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "a"}], "n": 2})),
        ] {
            let server = LlmServer::in_mood(mood.clone());
            let (events, done) = server.events(path, &body).await;
            let (last, before) = events.split_last().expect("events");
            assert_eq!(last["error"]["code"], code, "{last}");
            assert!(last["error"]["message"].is_string() && last["error"]["type"].is_string());
            assert!(!before.is_empty() && before.iter().all(|event| event.get("error").is_none()));
            assert!(!done, "who overlooks the error must not take it for the end");
            // Whole, the same is a status.
            let reply = LlmServer::in_mood(mood.clone()).post(path, &body).await;
            assert_eq!(reply.error().1, code);
        }
    }
}

#[tokio::test]
async fn a_stream_keeps_its_place_until_it_ends() {
    let settings = Settings { max_concurrent_requests: NonZeroUsize::MIN, ..Settings::default() };
    let (running, server) = running(LlmMood::HangsAfter(1), settings).await;
    let client = under_way(&running).await;
    let refused = server.post("/v1/completions", &json!({"prompt": "a"})).await;
    assert_eq!(refused.error(), (429, "rate_limit_exceeded".into(), None));
    drop(client);
    until("the request is aborted", || server.aborted() == 1).await;
}

#[tokio::test]
async fn a_stream_at_the_deadline_of_a_stop_ends_with_the_reason() {
    let (running, server) = running(LlmMood::HangsAfter(1), Settings::default()).await;
    let client = under_way(&running).await;
    assert_eq!(server.server.cut_off.in_flight(), 1, "a stream is in flight until it ends");
    running.phase.send(Phase::Draining).expect("watched");
    running.phase.send(Phase::Forced).expect("watched");
    let rest = to_end(client).await;
    assert!(rest.contains(r#""code":"shutting_down""#) && !rest.contains("[DONE]"), "{rest}");
    assert_eq!(running.ended.await.expect("no panic").expect("no error"), Ended::CutOff);
    until("the request is aborted", || server.aborted() == 1).await;
}

#[tokio::test]
async fn a_stream_that_has_nothing_to_say_is_no_idle_connection() {
    let settings = patient(Settings::default(), 100, 100, 100);
    let (running, _server) = running(LlmMood::HangsAfter(1), settings).await;
    let mut client = under_way(&running).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    client.write_all(b"").await.expect("open");
    let mut piece = [0; 16];
    let read = tokio::time::timeout(Duration::from_millis(100), client.read(&mut piece)).await;
    assert!(!matches!(read, Ok(Ok(0) | Err(_))), "the connection was closed");
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_shows_signs_of_life_that_are_no_events() {
    let server = LlmServer::in_mood(LlmMood::HangsAfter(1));
    let request = Request::post("/v1/completions").header(header::CONTENT_TYPE, "application/json");
    let response = server.server.router.clone().oneshot(request.body(Body::from(BODY)).expect("a request"));
    let mut body = response.await.expect("a response").into_body();
    let mut text = String::new();
    for _ in 0..4 {
        let frame = std::future::poll_fn(|context| {
            axum::body::HttpBody::poll_frame(std::pin::Pin::new(&mut body), context)
        });
        let data = frame.await.expect("a frame").expect("no error").into_data().expect("data");
        text.push_str(&String::from_utf8_lossy(&data));
    }
    let (events, done) = events_in(&text);
    assert_eq!((events.len(), done), (1, false));
    assert_eq!(text.matches("\n\n").count(), 4, "{text}");
}
