//! A client of the embeddings route that costs little: it shares the cores with the server that it measures.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::BenchError;

/// Bytes of a reply's head that are looked at for its end.
const MOST_HEAD_BYTES: usize = 8192;

/// One connection that is kept open, with one request on it at a time.
#[derive(Debug)]
pub struct HttpClient {
    stream: TcpStream,
    request: Vec<u8>,
    reply: Vec<u8>,
    filled: usize,
}

/// A reply; the body borrows the connection's buffer.
#[derive(Debug)]
pub struct HttpReply<'a> {
    /// The status code.
    pub status: u16,
    /// Whether it says when to come again (`Retry-After`).
    pub has_retry_after: bool,
    /// The body.
    pub body: &'a [u8],
}

/// Where the head of a reply ends, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    bytes: usize,
    body: usize,
    has_retry_after: bool,
}

impl HttpClient {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub async fn connect(address: SocketAddr) -> Result<Self, BenchError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: vec![], reply: vec![0; 16 * 1024], filled: 0 })
    }

    /// POSTs JSON and reads the whole reply.
    ///
    /// # Errors
    /// A connection that breaks, a reply that is none or has no `content-length`.
    pub async fn post(&mut self, path: &str, json: &str) -> Result<HttpReply<'_>, BenchError> {
        let length = json.len().to_string();
        let parts = [
            "POST ",
            path,
            " HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: ",
            &length,
            "\r\n\r\n",
            json,
        ];
        self.request.clear();
        parts.iter().for_each(|part| self.request.extend_from_slice(part.as_bytes()));
        self.stream.write_all(&self.request).await?;
        self.filled = 0;
        let head = loop {
            self.fill().await?;
            if let Some(head) = head_of(&self.reply[..self.filled])? {
                break head;
            }
        };
        let end = head.bytes + head.body;
        if self.reply.len() < end {
            self.reply.resize(end, 0);
        }
        while self.filled < end {
            self.fill().await?;
        }
        let Head { status, has_retry_after, bytes, .. } = head;
        Ok(HttpReply { status, has_retry_after, body: &self.reply[bytes..end] })
    }

    async fn fill(&mut self) -> Result<(), BenchError> {
        match self.stream.read(&mut self.reply[self.filled..]).await? {
            0 => Err(broken("the connection ended within a reply")),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }
}

/// The head, when all of it is there.
fn head_of(bytes: &[u8]) -> Result<Option<Head>, BenchError> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() > MOST_HEAD_BYTES {
            Err(broken("a reply without an end of its head"))
        } else {
            Ok(None)
        };
    };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| broken("the head of a reply is not text"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let header = |wanted: &str| {
        lines.clone().filter_map(|line| line.split_once(':')).find(|(n, _)| n.eq_ignore_ascii_case(wanted))
    };
    let length = header("content-length").and_then(|(_, value)| value.trim().parse().ok());
    let has_retry_after = header("retry-after").is_some();
    match (status, length) {
        (Some(status), Some(body)) => Ok(Some(Head { status, bytes: end + 4, body, has_retry_after })),
        _ => Err(broken("a reply without status or content-length")),
    }
}

fn broken(reason: &str) -> BenchError {
    BenchError::Server { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole_and_not_before() {
        let whole = b"HTTP/1.1 404 Not Found\r\nx: y\r\nContent-Length: 12\r\n\r\n{}";
        for cut in 0..whole.len() - 2 {
            assert_eq!(head_of(&whole[..cut]).expect("no fault"), None, "{cut}");
        }
        let head = head_of(whole).expect("no fault").expect("a head");
        assert_eq!(head, Head { status: 404, bytes: whole.len() - 2, body: 12, has_retry_after: false });
        let busy = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
        assert!(head_of(busy).expect("no fault").expect("a head").has_retry_after);
    }

    #[test]
    fn a_reply_whose_end_cannot_be_known_is_refused() {
        assert!(head_of(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(head_of(&[b'x'; MOST_HEAD_BYTES + 1]).is_err());
    }
}
