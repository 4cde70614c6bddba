//! A closed loop: so many clients, each of which sends its next request when it has the reply to the one before.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::LocalSet;

use crate::http_client::HttpClient;
use crate::{BenchError, Passes, WordPool};

pub(crate) const PATH: &str = "/v1/embeddings";
/// Part of the measured time that runs before it, uncounted.
const WARM_UP: f64 = 0.25;

/// What the clients send.
#[derive(Clone, Debug)]
pub struct HttpLoad {
    /// Connections.
    pub clients: usize,
    /// Measured time; a quarter of it runs before, uncounted.
    pub time: Duration,
    /// Tokens of each text, special ones included.
    pub tokens: usize,
    /// `encoding_format`.
    pub encoding: String,
    /// Texts in a request.
    pub texts: usize,
    /// Names that the requests go round; none is the base without a name.
    pub models: Vec<String>,
    /// When they leave, and for which of the names.
    pub pattern: LoadPattern,
}

/// When requests leave, and for which names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadPattern {
    /// Each client sends when it has its last reply; requests go round the names.
    Rounds,
    /// Likewise, but each client keeps the name of its number.
    OwnModel,
    /// All clients send at the same moment, each for the name of its number, and again when all have their replies.
    Bursts,
}

/// What the clients saw within the measured time.
#[derive(Clone, Debug)]
pub struct HttpTimes {
    /// Milliseconds from the first byte sent to the last one read, of the replies with status 200.
    pub latency: Passes,
    /// Such replies a second.
    pub rate: f64,
    /// Other replies, and connections that broke.
    pub errors: usize,
    /// The first of them.
    pub first_error: Option<String>,
}

struct Loop {
    load: HttpLoad,
    texts: RefCell<WordPool>,
    sent: Cell<usize>,
    from: Instant,
    until: Instant,
    latencies: RefCell<Vec<f64>>,
    errors: RefCell<Vec<String>>,
}

impl HttpLoad {
    /// Runs against a server; `on_measuring` is called when the uncounted part is over. Texts are the pool's next
    /// ones, none of them given before.
    ///
    /// # Errors
    /// When the runtime or a connection cannot be had, no reply came, or a first reply is no embedding.
    pub fn run(
        &self,
        address: SocketAddr,
        texts: WordPool,
        on_measuring: impl FnOnce() + 'static,
    ) -> Result<(HttpTimes, WordPool), BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tasks = LocalSet::new();
        match self.pattern {
            LoadPattern::Bursts => tasks.block_on(&runtime, self.bursts(address, texts, on_measuring)),
            _ => tasks.block_on(&runtime, self.closed_loop(address, texts, on_measuring)),
        }
    }

    async fn closed_loop(
        &self,
        address: SocketAddr,
        mut texts: WordPool,
        on_measuring: impl FnOnce() + 'static,
    ) -> Result<(HttpTimes, WordPool), BenchError> {
        let mut clients = vec![];
        for _ in 0..self.clients.max(1) {
            clients.push(HttpClient::connect(address).await?);
        }
        let first = self.body(0, &mut texts);
        check(clients[0].post(PATH, &first).await?.body)?;
        let from = Instant::now() + self.time.mul_f64(WARM_UP);
        let until = from + self.time;
        let looped = Rc::new(Loop {
            load: self.clone(),
            texts: RefCell::new(texts),
            sent: Cell::new(0),
            from,
            until,
            latencies: RefCell::new(vec![]),
            errors: RefCell::new(vec![]),
        });
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(from.into()).await;
            on_measuring();
        });
        let tasks: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(number, client)| tokio::task::spawn_local(looped.clone().client(number, client)))
            .collect();
        for task in tasks {
            task.await.map_err(|error| BenchError::Server { reason: error.to_string() })?;
        }
        let looped = Rc::into_inner(looped).expect("the clients have ended");
        let (latencies, errors) = (looped.latencies.into_inner(), looped.errors.into_inner());
        if latencies.is_empty() {
            let reason =
                errors.first().cloned().unwrap_or_else(|| "no reply in the measured time".to_owned());
            return Err(BenchError::Server { reason });
        }
        let times = HttpTimes {
            rate: latencies.len() as f64 / self.time.as_secs_f64(),
            latency: Passes::of(latencies),
            errors: errors.len(),
            first_error: errors.into_iter().next(),
        };
        Ok((times, looped.texts.into_inner()))
    }

    /// The body of a request with new texts. Words of the pool need no escapes.
    pub(crate) fn body(&self, number: usize, pool: &mut WordPool) -> String {
        let mut body = String::from(r#"{"input":"#);
        match self.texts {
            ..=1 => body.push_str(&format!("\"{}\"", pool.text(self.tokens))),
            texts => {
                let texts: Vec<String> = (0..texts).map(|_| pool.text(self.tokens)).collect();
                body.push_str(&format!("[\"{}\"]", texts.join("\",\"")));
            }
        }
        body.push_str(&format!(r#","encoding_format":"{}""#, self.encoding));
        if !self.models.is_empty() {
            body.push_str(r#","model":""#);
            body.push_str(&self.models[number % self.models.len()]);
            body.push('"');
        }
        body.push('}');
        body
    }
}

impl Loop {
    async fn client(self: Rc<Self>, own: usize, mut client: HttpClient) {
        while Instant::now() < self.until {
            let number = self.sent.replace(self.sent.get() + 1);
            let number = if self.load.pattern == LoadPattern::OwnModel { own } else { number };
            let body = self.load.body(number, &mut self.texts.borrow_mut());
            let began = Instant::now();
            let reply = client.post(PATH, &body).await;
            let ended = Instant::now();
            let fault = match &reply {
                Ok(reply) if reply.status == 200 => None,
                Ok(reply) => Some(format!("{}: {}", reply.status, String::from_utf8_lossy(reply.body))),
                Err(error) => Some(error.to_string()),
            };
            let counts = (self.from..self.until).contains(&ended);
            let is_broken = reply.is_err();
            match fault {
                Some(fault) => self.errors.borrow_mut().push(fault),
                None if counts => self.latencies.borrow_mut().push((ended - began).as_secs_f64() * 1e3),
                None => {}
            }
            if is_broken {
                return;
            }
        }
    }
}

/// A reply that holds no embedding would make every figure worthless.
pub(crate) fn check(body: &[u8]) -> Result<(), BenchError> {
    let json: Value = serde_json::from_slice(body)?;
    let embedding = &json["data"][0]["embedding"];
    let is_there = embedding.as_array().is_some_and(|values| !values.is_empty())
        || embedding.as_str().is_some_and(|text| !text.is_empty());
    let reason = || format!("no embedding in {}", String::from_utf8_lossy(body));
    if is_there { Ok(()) } else { Err(BenchError::Server { reason: reason() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_and_go_round_the_models() {
        let mut load = HttpLoad {
            clients: 1,
            time: Duration::from_secs(1),
            tokens: 16,
            encoding: "base64".to_owned(),
            texts: 1,
            models: vec!["a".to_owned(), "b".to_owned()],
            pattern: LoadPattern::Rounds,
        };
        let mut pool = WordPool::of((0..2000).map(|n| format!("w{n}")).collect(), 1);
        let mut body =
            |load: &HttpLoad, n| serde_json::from_str::<Value>(&load.body(n, &mut pool)).expect("JSON");
        assert_eq!([0, 1, 2].map(|number| body(&load, number)["model"].take()), ["a", "b", "a"]);
        assert!(body(&load, 0)["input"].is_string());
        load.models.clear();
        load.texts = 3;
        assert_eq!(body(&load, 0)["model"], Value::Null);
        assert_eq!(body(&load, 0)["input"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn a_reply_without_an_embedding_is_a_fault() {
        assert!(check(br#"{"data":[{"embedding":[0.5]}]}"#).is_ok());
        assert!(check(br#"{"data":[{"embedding":"AAAA"}]}"#).is_ok());
        for bad in [r#"{"data":[{"embedding":[]}]}"#, r#"{"error":{}}"#, "x"] {
            assert!(check(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
