//! The fake server behind a real socket.

use std::net::SocketAddr;
use std::time::Duration;

use polylora_server::connections::{ConnectionMetrics, ConnectionRules, Door, tls};
use polylora_server::serve::bind;
use polylora_server::settings::{Settings, Timeout};
use polylora_server::shutdown::{Ended, Phase, Stop, serve_until};
use polylora_server::state::Gatehouse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::fake_engine::{FakeEngine, Server};

/// Long enough that nothing which is waited for in a test comes later, short enough for a test that waits in vain.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Running {
    pub server: Server,
    pub address: SocketAddr,
    pub metrics: ConnectionMetrics,
    pub phase: watch::Sender<Phase>,
    pub ended: JoinHandle<std::io::Result<Ended>>,
}

/// Settings whose three timeouts are so long.
pub fn patient(settings: Settings, header: u64, body: u64, idle: u64) -> Settings {
    let timeout = |milliseconds| Timeout(Duration::from_millis(milliseconds));
    Settings {
        header_read_timeout: timeout(header),
        body_read_timeout: timeout(body),
        idle_timeout: timeout(idle),
        ..settings
    }
}

impl Running {
    pub async fn start(engine: FakeEngine, settings: Settings) -> Self {
        let connections = ConnectionMetrics::default();
        let gatehouse = Gatehouse { connections: connections.clone(), ..Gatehouse::default() };
        let server = Server::behind(gatehouse, engine, settings.clone());
        Self::open(server, settings, connections).await
    }

    pub async fn open(server: Server, settings: Settings, metrics: ConnectionMetrics) -> Self {
        let (listener, address) =
            bind("127.0.0.1", 0, settings.connection_backlog.get()).await.expect("a port");
        let door = Door {
            rules: ConnectionRules::of(&settings),
            tls: tls::acceptor(&settings).expect("a certificate"),
            metrics: metrics.clone(),
            ..Door::plain(listener)
        };
        let (phase, watched) = watch::channel(Phase::Running);
        let stop = Stop { phase: watched, drain: PATIENCE, cut_off: server.cut_off.clone() };
        let ended = tokio::spawn(serve_until(door, server.router.clone(), stop));
        Self { server, address, metrics, phase, ended }
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    /// A connection on which this has been sent.
    pub async fn send(&self, text: &str) -> TcpStream {
        let mut client = self.connect().await;
        client.write_all(text.as_bytes()).await.expect("sent");
        client
    }

    /// Everything that comes back until the server closes.
    pub async fn exchange(&self, text: &str) -> String {
        to_end(self.send(text).await).await
    }
}

/// Everything that comes until the server closes, which it must do within [`PATIENCE`].
pub async fn to_end(mut client: TcpStream) -> String {
    let mut bytes = vec![];
    let read = client.read_to_end(&mut bytes);
    // A reset is an end as well.
    let _ = tokio::time::timeout(PATIENCE, read).await.expect("the server closes");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until it is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never came: {what}"));
}

/// One reply with its body, from a connection that stays open.
pub async fn one_reply(client: &mut TcpStream) -> String {
    let mut bytes = vec![];
    let reading = async {
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
                if body.len() >= length {
                    return text;
                }
            }
            let mut piece = [0; 4096];
            let count = client.read(&mut piece).await.expect("read");
            assert!(count > 0, "the connection ended after {text:?}");
            bytes.extend_from_slice(&piece[..count]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("a reply")
}

/// A POST to `/v1/embeddings` of which so much of the body is announced.
pub fn post_head(length: usize) -> String {
    format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// A whole POST.
pub fn post(body: &str) -> String {
    format!("{}{body}", post_head(body.len()))
}
