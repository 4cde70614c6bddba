//! A client on one connection that is kept open, which can also do what no well-behaved client does.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Nothing waits so long when all is well.
const PATIENCE: Duration = Duration::from_secs(120);

/// The connection. A new one is made when the server has closed the last.
pub struct RawClient {
    address: String,
    stream: Option<BufReader<TcpStream>>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub struct RawReply {
    /// The status code.
    pub status: u16,
    /// Names, in lower case, and values of the headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl RawReply {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The embeddings of a reply in base64, as it came; empty where it has none.
    pub fn embeddings(&self) -> Vec<String> {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or(Value::Null);
        let rows = body["data"].as_array().into_iter().flatten();
        rows.filter_map(|row| row["embedding"].as_str().map(str::to_owned)).collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl RawClient {
    /// A client of the server at `http://ADDRESS`; it connects when it first sends.
    pub fn new(url: &str) -> Self {
        Self { address: url.trim_start_matches("http://").to_owned(), stream: None }
    }

    /// POSTs a body to the embeddings and reads the reply.
    ///
    /// # Errors
    /// The connection's.
    pub fn post(&mut self, body: &[u8]) -> io::Result<RawReply> {
        let bytes = [head(body.len()).as_bytes(), body].concat();
        self.send(&bytes)?;
        self.reply()
    }

    /// Sends any bytes.
    ///
    /// # Errors
    /// The connection's.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream()?.get_mut().write_all(bytes)
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// The connection's, and `InvalidData` for what is no reply.
    pub fn reply(&mut self) -> io::Result<RawReply> {
        let reply = read_reply(self.stream()?);
        let is_last =
            reply.as_ref().map_or(true, |r| r.header("connection").is_some_and(|c| c.contains("close")));
        if is_last {
            self.stream = None;
        }
        reply
    }

    /// Sends the part of a request for `body` up to `share` (0 to 1) of its bytes, and goes away without a reply.
    ///
    /// # Errors
    /// The connection's.
    pub fn cut_off(&mut self, body: &[u8], share: f64) -> io::Result<()> {
        let whole = [head(body.len()).as_bytes(), body].concat();
        let sent = (whole.len() as f64 * share) as usize;
        self.send(&whole[..sent.min(whole.len())])?;
        if let Some(stream) = self.stream.take() {
            stream.get_ref().shutdown(Shutdown::Both)?;
        }
        Ok(())
    }

    fn stream(&mut self) -> io::Result<&mut BufReader<TcpStream>> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(&self.address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            self.stream = Some(BufReader::new(stream));
        }
        Ok(self.stream.as_mut().expect("made above"))
    }
}

/// The head of a POST to the embeddings with so many bytes of body.
fn head(length: usize) -> String {
    format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

fn read_reply(stream: &mut BufReader<TcpStream>) -> io::Result<RawReply> {
    let no_reply = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| no_reply(&line))?;
    let mut headers = vec![];
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| no_reply(line))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| value.parse().ok()).ok_or_else(|| no_reply("no length"))?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(RawReply { status, headers, body })
}
