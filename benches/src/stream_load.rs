//! Streams in a closed loop: so many clients, each of which asks for its next text when it has the whole of the one before.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::LocalSet;

use crate::stream_client::{Piece, StreamClient};
use crate::{BenchError, HttpServer, Passes, Random, Row, Zipf, own_cpu_seconds};

/// Part of the measured time that runs before it, uncounted.
const WARM_UP: f64 = 0.25;
/// Token ids of prompts begin here: what is below may be special.
const FIRST_ID: usize = 10;

/// What the clients ask for.
#[derive(Clone, Debug)]
pub struct StreamLoad {
    /// Connections.
    pub clients: usize,
    /// Measured time; a quarter of it runs before, uncounted.
    pub time: Duration,
    /// Tokens of each prompt.
    pub prompt: usize,
    /// Tokens that follow it.
    pub new: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Adapters, asked for by Zipf's law: the first most often.
    pub adapters: Vec<String>,
    /// Names the prompts.
    pub seed: u64,
}

/// What the clients saw within the measured time. Times are in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StreamFigures {
    /// New tokens a second, all clients together.
    pub tokens_per_s: f64,
    /// Texts that began within it.
    pub texts: f64,
    /// From the request to its first token: median and 99th percentile.
    pub first: [f64; 2],
    /// Between the tokens of a text: median and 99th percentile.
    pub gap: [f64; 2],
    /// Pieces that followed one of another client, as a share of all.
    pub interleaved: f64,
    /// Cores that the clients used.
    pub client_cores: f64,
    /// Streams that failed.
    pub errors: f64,
}

/// One piece as all clients' pieces are kept.
#[derive(Clone, Copy, Debug)]
struct Seen {
    piece: Piece,
    client: usize,
    /// What it waited for: the request, or the piece before.
    since: Instant,
    is_first: bool,
}

struct Loop {
    load: StreamLoad,
    random: RefCell<(Random, Zipf)>,
    until: Instant,
    seen: RefCell<Vec<Seen>>,
    errors: RefCell<Vec<String>>,
}

impl StreamLoad {
    /// Runs against a server.
    ///
    /// # Errors
    /// When a connection cannot be had, or no token came. What failed otherwise is counted and told on standard error.
    pub fn run(&self, server: &HttpServer) -> Result<StreamFigures, BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, self.closed_loop(server.address))
    }

    async fn closed_loop(&self, address: SocketAddr) -> Result<StreamFigures, BenchError> {
        let mut clients = vec![];
        for _ in 0..self.clients.max(1) {
            clients.push(StreamClient::connect(address).await?);
        }
        let from = Instant::now() + self.time.mul_f64(WARM_UP);
        let until = from + self.time;
        let zipf = Zipf::new(self.adapters.len().max(1), 1.0, self.seed);
        let looped = Rc::new(Loop {
            load: self.clone(),
            random: RefCell::new((Random::new(self.seed), zipf)),
            until,
            seen: RefCell::default(),
            errors: RefCell::default(),
        });
        let cores = tokio::task::spawn_local(async move {
            tokio::time::sleep_until(from.into()).await;
            let before = own_cpu_seconds();
            tokio::time::sleep_until(until.into()).await;
            let used = own_cpu_seconds().zip(before).map(|(after, before)| after - before);
            used.map_or(f64::NAN, |used| used / (until - from).as_secs_f64())
        });
        let tasks: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(number, client)| tokio::task::spawn_local(looped.clone().client(number, client)))
            .collect();
        let failed = |error: tokio::task::JoinError| BenchError::Server { reason: error.to_string() };
        for task in tasks {
            task.await.map_err(failed)?;
        }
        let client_cores = cores.await.map_err(failed)?;
        let looped = Rc::into_inner(looped).expect("the clients have ended");
        let errors = looped.errors.into_inner();
        if let Some(first) = errors.first() {
            eprintln!("{} streams failed, the first: {first}", errors.len());
        }
        let figures = figures(&looped.seen.into_inner(), from, until)
            .ok_or_else(|| BenchError::Server { reason: "no token came in the measured time".to_owned() })?;
        Ok(StreamFigures { client_cores, errors: errors.len() as f64, ..figures })
    }

    fn body(&self, (random, zipf): &mut (Random, Zipf)) -> String {
        let ids = self.vocabulary.saturating_sub(FIRST_ID).max(1);
        let first = self.vocabulary.saturating_sub(ids);
        let prompt: Vec<usize> = (0..self.prompt).map(|_| first + random.below(ids)).collect();
        let mut body = json!({
            "prompt": prompt, "max_tokens": self.new, "temperature": 0, "ignore_eos": true, "stream": true,
            "return_token_ids": true,
        });
        if !self.adapters.is_empty() {
            body["model"] = self.adapters[zipf.draw()].as_str().into();
        }
        body.to_string()
    }
}

impl Loop {
    async fn client(self: Rc<Self>, number: usize, mut client: StreamClient) {
        while Instant::now() < self.until {
            let body = self.load.body(&mut self.random.borrow_mut());
            let (mut since, mut is_first) = (Instant::now(), true);
            let done = client.complete(&body, |piece| {
                self.seen.borrow_mut().push(Seen { piece, client: number, since, is_first });
                (since, is_first) = (piece.at, false);
            });
            if let Err(error) = done.await {
                self.errors.borrow_mut().push(error.to_string());
                return;
            }
        }
    }
}

/// Of what came from `from` to `until`, in the order in which it came; `None` when there is too little.
fn figures(seen: &[Seen], from: Instant, until: Instant) -> Option<StreamFigures> {
    let counted: Vec<&Seen> = seen.iter().filter(|s| (from..until).contains(&s.piece.at)).collect();
    let waits = |is_first: bool| {
        let waited = counted.iter().filter(|s| s.is_first == is_first);
        let waited = waited.map(|s| (s.piece.at - s.since).as_secs_f64() * 1e3).collect::<Vec<_>>();
        (!waited.is_empty()).then(|| Passes::of(waited))
    };
    let both = |times: &Passes| [times.median(), times.percentile(0.99)];
    let (first, gaps) = (waits(true)?, waits(false)?);
    let tokens: usize = counted.iter().map(|s| s.piece.tokens).sum();
    let changes = counted.windows(2).filter(|two| two[0].client != two[1].client).count();
    Some(StreamFigures {
        tokens_per_s: tokens as f64 / (until - from).as_secs_f64(),
        texts: first.sorted().len() as f64,
        first: both(&first),
        gap: both(&gaps),
        interleaved: changes as f64 / counted.len() as f64,
        ..StreamFigures::default()
    })
}

impl StreamFigures {
    /// The median of each figure over several measurements; of errors, their sum.
    pub fn middle(rounds: &[Self]) -> Self {
        let median = |of: fn(&Self) -> f64| {
            let all: Vec<f64> = rounds.iter().map(of).collect();
            if all.is_empty() { f64::NAN } else { Passes::of(all).median() }
        };
        Self {
            tokens_per_s: median(|f| f.tokens_per_s),
            texts: median(|f| f.texts),
            first: [median(|f| f.first[0]), median(|f| f.first[1])],
            gap: [median(|f| f.gap[0]), median(|f| f.gap[1])],
            interleaved: median(|f| f.interleaved),
            client_cores: median(|f| f.client_cores),
            errors: rounds.iter().map(|f| f.errors).sum(),
        }
    }

    /// As a line of a table.
    pub fn row(&self, clients: usize) -> Row {
        Row::default()
            .number("clients", clients as f64, 0)
            .number("new tokens/s", self.tokens_per_s, 1)
            .number("texts", self.texts, 0)
            .number("first token p50 ms", self.first[0], 0)
            .number("p99 ms", self.first[1], 0)
            .number("between tokens p50 ms", self.gap[0], 1)
            .number("p99", self.gap[1], 1)
            .number("after another's", self.interleaved, 2)
            .number("errors", self.errors, 0)
            .number("client cores", self.client_cores, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_in_the_measured_time_counts() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let seen = |ms, client, since, is_first| Seen {
            piece: Piece { at: at(ms), tokens: 2 },
            client,
            since: at(since),
            is_first,
        };
        let all = [
            seen(50, 0, 0, true),
            seen(110, 0, 50, false),
            seen(120, 1, 20, true),
            seen(140, 0, 110, false),
            seen(250, 1, 120, false),
        ];
        let found = figures(&all, at(100), at(200)).expect("figures");
        assert_eq!((found.tokens_per_s, found.texts, found.first), (60.0, 1.0, [100.0; 2]));
        assert_eq!((found.gap, found.interleaved), ([45.0, 60.0], 2.0 / 3.0));
        assert_eq!(figures(&all, at(300), at(400)), None);
    }

    #[test]
    fn bodies_ask_for_a_stream_of_ids_within_the_vocabulary() {
        let mut load = StreamLoad {
            clients: 1,
            time: Duration::from_secs(1),
            prompt: 5,
            new: 7,
            vocabulary: 12,
            adapters: vec!["a".to_owned()],
            seed: 3,
        };
        let mut random = (Random::new(1), Zipf::new(1, 1.0, 1));
        let body: serde_json::Value = serde_json::from_str(&load.body(&mut random)).expect("JSON");
        let ids: Vec<u64> =
            body["prompt"].as_array().expect("ids").iter().filter_map(|id| id.as_u64()).collect();
        assert!(ids.len() == 5 && ids.iter().all(|id| (10..12).contains(id)), "{ids:?}");
        assert_eq!(
            (&body["model"], &body["max_tokens"], &body["stream"]),
            (&json!("a"), &json!(7), &json!(true))
        );
        load.adapters.clear();
        let body: serde_json::Value = serde_json::from_str(&load.body(&mut random)).expect("JSON");
        assert!(body.get("model").is_none());
    }
}
