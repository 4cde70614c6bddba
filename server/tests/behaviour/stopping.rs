//! How the server binds, drains and ends.

use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use polylora_server::connections::Door;
use polylora_server::serve::{ServeError, bind};
use polylora_server::shutdown::{CutOff, Ended, Phase, Stop, serve_until, until_cut_off};
use polylora_server::startup::Surface;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};

use crate::fake_engine::{Mood, Server};

/// A server with one request in flight, which answers when `answer` is used.
struct InFlight {
    client: TcpStream,
    phase: watch::Sender<Phase>,
    answer: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<std::io::Result<Ended>>,
}

async fn in_flight(drain: Duration) -> InFlight {
    let (listener, address) = bind("127.0.0.1", 0, 1024).await.expect("a port");
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
    let cut_off = CutOff::default();
    let router = Router::new()
        .route("/", get(move || handler()))
        .layer(from_fn_with_state(cut_off.clone(), until_cut_off));
    let (phase, watched) = watch::channel(Phase::Running);
    let ended =
        tokio::spawn(serve_until(Door::plain(listener), router, Stop { phase: watched, drain, cut_off }));
    let mut client = TcpStream::connect(address).await.expect("connected");
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
    arrivals.recv().await.expect("the request arrived");
    InFlight { client, phase, answer, ended }
}

impl InFlight {
    /// Reads to the end what must be a whole refusal, and gives back how serving ended.
    async fn read_refusal(mut self) -> Ended {
        let mut reply = String::new();
        self.client.read_to_string(&mut reply).await.expect("read to the end");
        assert!(reply.starts_with("HTTP/1.1 503") && reply.contains("retry-after: "), "{reply}");
        let body = reply.split("\r\n\r\n").nth(1).expect("a body");
        let body: serde_json::Value = serde_json::from_str(body).expect("the whole body");
        assert_eq!(body["error"]["code"], "shutting_down");
        self.ended.await.expect("no panic").expect("no error")
    }
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_port_in_use_is_told_with_its_address() {
    let (_listener, address) = bind("127.0.0.1", 0, 1024).await.expect("a port");
    let error = bind("127.0.0.1", address.port(), 1024).await.expect_err("in use");
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
async fn the_second_signal_refuses_what_the_first_waits_for() {
    let it = in_flight(LONG).await;
    it.phase.send(Phase::Draining).expect("watched");
    it.phase.send(Phase::Forced).expect("watched");
    assert_eq!(it.read_refusal().await, Ended::CutOff);
}

#[tokio::test]
async fn a_request_in_flight_at_the_deadline_is_answered_503_and_not_cut() {
    let it = in_flight(Duration::ZERO).await;
    it.phase.send(Phase::Draining).expect("watched");
    assert_eq!(it.read_refusal().await, Ended::CutOff);
}

#[tokio::test]
async fn what_hangs_in_the_engine_and_a_body_that_never_ends_are_answered_503_too() {
    let server = Server::in_mood(Mood::Hangs);
    let (listener, address) = bind("127.0.0.1", 0, 1024).await.expect("a port");
    let (phase, watched) = watch::channel(Phase::Running);
    let stop = Stop { phase: watched, drain: Duration::ZERO, cut_off: server.cut_off.clone() };
    let ended = tokio::spawn(serve_until(Door::plain(listener), server.router.clone(), stop));
    let mut clients = vec![];
    for length in [13, 14] {
        let mut client = TcpStream::connect(address).await.expect("connected");
        let request = format!(
            "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n\
             {{\"input\":\"a\"}}"
        );
        client.write_all(request.as_bytes()).await.expect("written");
        clients.push(client);
    }
    // Both have reached the routes.
    while server.cut_off.in_flight() < 2 {
        tokio::task::yield_now().await;
    }
    phase.send(Phase::Draining).expect("watched");
    for mut client in clients {
        let mut reply = String::new();
        client.read_to_string(&mut reply).await.expect("read to the end");
        assert!(reply.starts_with("HTTP/1.1 503") && reply.contains("shutting_down"), "{reply}");
    }
    assert_eq!(ended.await.expect("no panic").expect("no error"), Ended::CutOff);
}

#[tokio::test]
async fn a_connection_without_a_whole_request_is_not_waited_for_beyond_the_deadline() {
    let (listener, address) = bind("127.0.0.1", 0, 1024).await.expect("a port");
    let (phase, watched) = watch::channel(Phase::Running);
    let stop = Stop { phase: watched, drain: Duration::ZERO, cut_off: CutOff::default() };
    let _idle = TcpStream::connect(address).await.expect("connected");
    let mut half = TcpStream::connect(address).await.expect("connected");
    half.write_all(b"GET / HTTP/1.1\r\nho").await.expect("written");
    phase.send(Phase::Draining).expect("watched");
    let ended = serve_until(Door::plain(listener), Router::new(), stop).await;
    assert_eq!(ended.expect("no error"), Ended::Drained);
}

#[tokio::test]
async fn a_server_that_starts_says_so_until_its_routes_are_there() {
    let server = Server::new();
    let surface = Surface::starting();
    let starting = Server { router: surface.router(), ..Server::new() };
    for path in ["/health", "/v1/models", "/nowhere"] {
        let reply = starting.get(path).await;
        assert_eq!(reply.error(), (503, "starting".into(), None), "{path}");
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert!(reply.header("x-request-id").is_some());
    }
    assert_eq!(starting.post("{\"input\":\"a\"}").await.error().1, "starting");
    surface.open(server.router.clone());
    assert_eq!(starting.get("/health").await.status, 200);
    assert_eq!(starting.get("/nowhere").await.error().1, "unknown_url");
    assert_eq!(starting.post("{\"input\":\"a\"}").await.status, 200);
    // Counted by route also behind the surface.
    let metrics = starting.get("/metrics").await.text;
    assert!(metrics.contains(r#"{route="/v1/embeddings",status="200"} 1"#), "{metrics}");
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
