//! A client of the fleet's API: with an admin key, on any route, and it says which version answered. It blocks, since the
//! calls that it times come one after the other.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::BenchError;
use crate::http_load::{PATH, check};

/// The admin key of the bench's servers.
pub(crate) const ADMIN_KEY: &str = "fleet-bench";
/// A reply that takes longer is a fault.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a reply at most, the head's lines included.
const MOST_BYTES: u64 = 16 << 20;

/// One connection that is kept open, with one request on it at a time.
#[derive(Debug)]
pub struct FleetClient {
    stream: BufReader<TcpStream>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetReply {
    /// The status code.
    pub status: u16,
    /// Name, version and digest of who answered (`x-polylora-adapter`).
    pub answered_by: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// A call that was answered with success, and how long that took from the first byte sent to the last one read.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) reply: FleetReply,
}

impl Call {
    pub(crate) fn ms(&self) -> f64 {
        (self.ended - self.began).as_secs_f64() * 1e3
    }
}

impl FleetClient {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(address: SocketAddr) -> Result<Self, BenchError> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a request and reads the whole reply, whatever its status.
    ///
    /// # Errors
    /// A connection that breaks, a reply that is none or has no `content-length`.
    pub fn send(&mut self, method: &str, path: &str, body: &str) -> Result<FleetReply, BenchError> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {ADMIN_KEY}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        read_reply(&mut self.stream)
    }

    /// POSTs JSON.
    pub(crate) fn post(&mut self, path: &str, body: &Value) -> Result<Call, BenchError> {
        self.call("POST", path, &body.to_string())
    }

    /// Has the server load a folder under a name, in place of what answers under it.
    pub(crate) fn load_in_place(&mut self, name: &str, folder: &str) -> Result<Call, BenchError> {
        let body = json!({"lora_name": name, "lora_path": folder, "load_inplace": true});
        self.post("/v1/load_lora_adapter", &body)
    }

    /// Who answers under a name: its name, version and digest.
    pub(crate) fn active(&mut self, name: &str) -> Result<String, BenchError> {
        let call = self.call("GET", &format!("/api/adapters/{name}/metadata"), "")?;
        let json: Value = serde_json::from_slice(&call.reply.body)?;
        let tag = json["tag"].as_str().map(str::to_owned);
        tag.ok_or_else(|| fault(&format!("no tag in {json}")))
    }

    /// Embeds a text through an adapter, or without a name through the base.
    pub(crate) fn embed(&mut self, adapter: Option<&str>, text: &str) -> Result<Call, BenchError> {
        let mut body = json!({"input": text, "encoding_format": "float"});
        if let Some(name) = adapter {
            body["model"] = name.into();
        }
        self.post(PATH, &body)
    }

    /// The same, and the reply must hold an embedding.
    pub(crate) fn embed_checked(&mut self, adapter: Option<&str>, text: &str) -> Result<Call, BenchError> {
        let call = self.embed(adapter, text)?;
        check(&call.reply.body)?;
        Ok(call)
    }

    fn call(&mut self, method: &str, path: &str, body: &str) -> Result<Call, BenchError> {
        let began = Instant::now();
        let reply = self.send(method, path, body)?;
        let ended = Instant::now();
        if !(200..300).contains(&reply.status) {
            let said = String::from_utf8_lossy(&reply.body);
            return Err(fault(&format!("{method} {path}: {}: {said}", reply.status)));
        }
        Ok(Call { began, ended, reply })
    }
}

fn read_reply(stream: &mut impl BufRead) -> Result<FleetReply, BenchError> {
    let mut stream = stream.take(MOST_BYTES);
    let mut line = || -> Result<String, BenchError> {
        let mut line = String::new();
        match stream.read_line(&mut line)? {
            0 => Err(fault("the connection ended within a reply")),
            _ => Ok(line.trim_end().to_owned()),
        }
    };
    let first = line()?;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status: u16 = status.ok_or_else(|| fault(&format!("{first:?} is no status line")))?;
    let (mut length, mut answered_by): (Option<u64>, Option<String>) = (None, None);
    loop {
        let field = line()?;
        if field.is_empty() {
            break;
        }
        match field.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().ok()
            }
            Some((name, value)) if name.eq_ignore_ascii_case("x-polylora-adapter") => {
                answered_by = Some(value.trim().to_owned());
            }
            _ => {}
        }
    }
    let length = length.filter(|length| *length <= MOST_BYTES);
    let length = length.ok_or_else(|| fault("a reply without a content-length that can be"))?;
    let mut body = vec![];
    stream.take(length).read_to_end(&mut body)?;
    if body.len() as u64 != length {
        return Err(fault("the connection ended within a reply"));
    }
    Ok(FleetReply { status, answered_by, body })
}

fn fault(reason: &str) -> BenchError {
    BenchError::Server { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_says_who_answered_and_leaves_the_next_one_in_the_stream() {
        let mut stream: &[u8] =
            b"HTTP/1.1 200 OK\r\nX-Polylora-Adapter: law@1.0.1#a7b1c2d3\r\ncontent-length: 2\r\n\r\n{}\
            HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        let first = read_reply(&mut stream).expect("a reply");
        assert_eq!((first.status, first.body.as_slice()), (200, &b"{}"[..]));
        assert_eq!(first.answered_by.as_deref(), Some("law@1.0.1#a7b1c2d3"));
        let second = read_reply(&mut stream).expect("a reply");
        assert_eq!(second, FleetReply { status: 404, answered_by: None, body: vec![] });
    }

    #[test]
    fn what_is_no_whole_reply_is_a_fault() {
        for wrong in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}",
        ] {
            assert!(read_reply(&mut wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
