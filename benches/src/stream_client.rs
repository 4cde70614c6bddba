//! A client of `/v1/completions` that takes a stream and notes when its tokens came. It costs little: it shares the cores with
//! the server that it measures.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::BenchError;
use crate::chunked_body::ChunkedBody;

const PATH: &str = "/v1/completions";
/// Bytes of a reply's head at most.
const MOST_HEAD_BYTES: usize = 8192;

/// One connection that is kept open, with one stream on it at a time.
#[derive(Debug)]
pub(crate) struct StreamClient {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A piece of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// When it was read.
    pub(crate) at: Instant,
    /// Tokens in it.
    pub(crate) tokens: usize,
}

impl StreamClient {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, BenchError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 64 * 1024] })
    }

    /// POSTs JSON that asks for a stream with token ids, and reads it to its end; `each` is told of every piece that has tokens.
    pub(crate) async fn complete(
        &mut self,
        json: &str,
        mut each: impl FnMut(Piece),
    ) -> Result<(), BenchError> {
        let length = json.len();
        let request = format!(
            "POST {PATH} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{json}"
        );
        self.stream.write_all(request.as_bytes()).await?;
        let mut filled = 0;
        let head = loop {
            filled += self.fill(filled).await?;
            if let Some(end) = self.buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if filled > MOST_HEAD_BYTES {
                return Err(fault("a reply without an end of its head"));
            }
        };
        check_head(&self.buffer[..head], &self.buffer[head..filled])?;
        let (mut body, mut failed) = (ChunkedBody::default(), None);
        let mut part = head..filled;
        loop {
            let at = Instant::now();
            let whole = body.take(&self.buffer[part.clone()], |event| match tokens_of(event) {
                Ok(0) => {}
                Ok(tokens) => each(Piece { at, tokens }),
                Err(reason) => failed = Some(reason),
            });
            if let Some(reason) = failed {
                return Err(fault(&reason));
            }
            whole.ok_or_else(|| fault("a body that is not in chunks"))?;
            if body.is_done() {
                return Ok(());
            }
            part = 0..self.fill(0).await?;
        }
    }

    async fn fill(&mut self, from: usize) -> Result<usize, BenchError> {
        match self.stream.read(&mut self.buffer[from..]).await? {
            0 => Err(fault("the connection ended within a reply")),
            read => Ok(read),
        }
    }
}

/// The head of a stream that was granted; `more` is what came with it.
fn check_head(head: &[u8], more: &[u8]) -> Result<(), BenchError> {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    if text.starts_with("http/1.1 200 ") && text.contains("\r\ntransfer-encoding: chunked\r\n") {
        return Ok(());
    }
    let first = text.lines().next().unwrap_or_default();
    Err(fault(&format!("{first}: {}", String::from_utf8_lossy(more))))
}

/// Tokens of an event.
fn tokens_of(event: &[u8]) -> Result<usize, String> {
    let Some(data) = event.strip_prefix(b"data: ").filter(|data| *data != b"[DONE]") else { return Ok(0) };
    let json: Value = serde_json::from_slice(data).map_err(|error| error.to_string())?;
    match (&json["error"], json["choices"][0]["token_ids"].as_array()) {
        (Value::Null, ids) => Ok(ids.map_or(0, Vec::len)),
        (error, _) => Err(error.to_string()),
    }
}

fn fault(reason: &str) -> BenchError {
    BenchError::Server { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_tell_their_tokens_and_an_error_is_none() {
        let event = br#"data: {"choices":[{"text":"7 8","token_ids":[7,8],"prompt_token_ids":[1,2,3]}]}"#;
        assert_eq!(tokens_of(event), Ok(2));
        for empty in [&b"data: [DONE]"[..], b": still at it", br#"data: {"choices":[],"usage":{}}"#] {
            assert_eq!(tokens_of(empty), Ok(0));
        }
        assert!(tokens_of(br#"data: {"error":{"message":"no"}}"#).is_err_and(|error| error.contains("no")));
    }

    #[test]
    fn a_refusal_says_what_came() {
        let granted = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(check_head(granted, b"").is_ok());
        let error = check_head(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n", b"{}");
        assert!(error.expect_err("refused").to_string().contains("429 too many requests: {}"));
    }
}
