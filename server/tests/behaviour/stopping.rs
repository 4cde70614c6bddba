//! How the server binds, drains and ends.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use polylora_server::serve::{ServeError, bind};
use polylora_server::shutdown::{Ended, Phase, serve_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};

/// A server with one request in flight, which answers when `answer` is used.
struct InFlight {
    client: TcpStream,
    phase: watch::Sender<Phase>,
    answer: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<std::io::Result<Ended>>,
}

async fn in_flight(drain: Duration) -> InFlight {
    let (listener, address) = bind("127.0.0.1", 0).await.expect("a port");
    let (arrived, mut arrivals) = mpsc::channel(1);
    let (answer, answered) = oneshot::channel::<()>();
    let answered = std::sync::Mutex::new(Some(answered));
    let handler = move || {
        let answered = answered.lock().expect("no panic while held").take();
        let arrived = arrived.clone();
        async move {
            arrived.send(()).await.expect("the test waits");
            let _ = answered.expect("one request").await;
            "answered"
        }
    };
    let handler = std::sync::Arc::new(handler);
    let router = Router::new().route("/", get(move || handler()));
    let (phase, watched) = watch::channel(Phase::Running);
    let ended = tokio::spawn(serve_until(listener, router, watched, drain));
    let mut client = TcpStream::connect(address).await.expect("connected");
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
    arrivals.recv().await.expect("the request arrived");
    InFlight { client, phase, answer, ended }
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_port_in_use_is_told_with_its_address() {
    let (_listener, address) = bind("127.0.0.1", 0).await.expect("a port");
    let error = bind("127.0.0.1", address.port()).await.expect_err("in use");
    assert!(matches!(error, ServeError::Bind { .. }));
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", address.port())), "{error}");
}

#[tokio::test]
async fn a_request_in_flight_is_answered_after_the_first_signal() {
    let mut it = in_flight(LONG).await;
    it.phase.send(Phase::Draining).expect("watched");
    it.answer.send(()).expect("awaited");
    let mut reply = String::new();
    it.client.read_to_string(&mut reply).await.expect("read to the end");
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("answered"), "{reply}");
    assert_eq!(it.ended.await.expect("no panic").expect("no error"), Ended::Drained);
}

#[tokio::test]
async fn the_second_signal_ends_what_the_first_waits_for() {
    let it = in_flight(LONG).await;
    it.phase.send(Phase::Draining).expect("watched");
    it.phase.send(Phase::Forced).expect("watched");
    assert_eq!(it.ended.await.expect("no panic").expect("no error"), Ended::CutOff);
    drop((it.answer, it.client));
}

#[tokio::test]
async fn the_deadline_ends_it_too() {
    let it = in_flight(Duration::ZERO).await;
    it.phase.send(Phase::Draining).expect("watched");
    assert_eq!(it.ended.await.expect("no panic").expect("no error"), Ended::CutOff);
    drop((it.answer, it.client));
}

#[tokio::test]
async fn without_a_signal_it_goes_on_when_the_sender_is_gone() {
    let it = in_flight(Duration::ZERO).await;
    drop(it.phase);
    it.answer.send(()).expect("awaited");
    let mut reply = vec![0; 12];
    let mut client = it.client;
    client.read_exact(&mut reply).await.expect("an answer");
    assert_eq!(reply, b"HTTP/1.1 200");
    assert!(!it.ended.is_finished());
    it.ended.abort();
}
