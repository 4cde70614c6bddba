//! Bursts: so many clients send one text each at the same moment, and wait until all have their replies.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::Barrier;

use crate::http_client::HttpClient;
use crate::http_load::{HttpLoad, HttpTimes, PATH};
use crate::{BenchError, Passes, WordPool};

/// Bursts that are not counted.
const WARM_UP: usize = 1;
/// Bursts that are counted at least.
const FEWEST: usize = 3;

impl HttpLoad {
    /// Sends bursts for about the load's time. The rate is that of the median burst, from the first byte sent to the last
    /// reply read.
    pub(crate) async fn bursts(
        &self,
        address: SocketAddr,
        mut texts: WordPool,
        on_measuring: impl FnOnce(),
    ) -> Result<(HttpTimes, WordPool), BenchError> {
        let mut clients = vec![];
        for _ in 0..self.clients.max(1) {
            clients.push(HttpClient::connect(address).await?);
        }
        for _ in 0..WARM_UP {
            clients = self.burst(clients, &mut texts).await?.clients;
        }
        on_measuring();
        let (began, mut took, mut latencies, mut errors) = (Instant::now(), vec![], vec![], vec![]);
        while took.len() < FEWEST || began.elapsed() < self.time {
            let burst = self.burst(clients, &mut texts).await?;
            took.push(burst.ms);
            latencies.extend(burst.latencies);
            errors.extend(burst.errors);
            clients = burst.clients;
        }
        if latencies.is_empty() {
            let reason = errors.first().cloned().unwrap_or_default();
            return Err(BenchError::Server { reason });
        }
        let times = HttpTimes {
            rate: self.clients as f64 * 1e3 / Passes::of(took).median(),
            latency: Passes::of(latencies),
            errors: errors.len(),
            first_error: errors.into_iter().next(),
        };
        Ok((times, texts))
    }

    async fn burst(&self, clients: Vec<HttpClient>, texts: &mut WordPool) -> Result<Burst, BenchError> {
        let together = Rc::new(Barrier::new(clients.len()));
        let mut tasks = vec![];
        for (number, mut client) in clients.into_iter().enumerate() {
            let (body, together) = (self.body(number, texts), together.clone());
            tasks.push(tokio::task::spawn_local(async move {
                together.wait().await;
                let began = Instant::now();
                let reply = client.post(PATH, &body).await?;
                let ended = Instant::now();
                let fault = (reply.status != 200)
                    .then(|| format!("{}: {}", reply.status, String::from_utf8_lossy(reply.body)));
                Ok::<_, BenchError>((client, began, ended, fault))
            }));
        }
        let (mut first, mut last) = (None::<Instant>, None::<Instant>);
        let mut burst = Burst { clients: vec![], ms: 0.0, latencies: vec![], errors: vec![] };
        for task in tasks {
            let joined = task.await.map_err(|error| BenchError::Server { reason: error.to_string() })?;
            let (client, began, ended, fault) = joined?;
            first = Some(first.map_or(began, |first| first.min(began)));
            last = Some(last.map_or(ended, |last| last.max(ended)));
            match fault {
                Some(fault) => burst.errors.push(fault),
                None => burst.latencies.push((ended - began).as_secs_f64() * 1e3),
            }
            burst.clients.push(client);
        }
        burst.ms = first.zip(last).map_or(0.0, |(first, last)| (last - first).as_secs_f64() * 1e3);
        Ok(burst)
    }
}

struct Burst {
    /// The connections, for the next one.
    clients: Vec<HttpClient>,
    ms: f64,
    latencies: Vec<f64>,
    errors: Vec<String>,
}
