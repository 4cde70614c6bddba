//! An open loop: requests leave at the times of a plan, whether or not those before them have been answered. That is how
//! overload comes; clients in a closed loop would wait instead.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use crate::http_client::HttpClient;
use crate::http_load::{HttpLoad, PATH};
use crate::{BenchError, WordPool};

/// How finely the plan is kept.
const STEP: Duration = Duration::from_millis(1);
/// Connections at most; a request that finds none free is not sent, and counted.
const MOST_CONNECTIONS: usize = 1500;
/// Attempts after the last request of the plan until one is taken.
const MOST_ATTEMPTS: usize = 10_000;

/// Requests at a fixed rate.
#[derive(Clone, Debug)]
pub struct OpenLoop {
    /// What a request is; its clients and its time are of no account.
    pub load: HttpLoad,
    /// Requests a second.
    pub rate: f64,
    /// How long.
    pub time: Duration,
}

/// What became of them. Times are in milliseconds from the first byte sent to the last one read.
#[derive(Clone, Debug, Default)]
pub struct OpenTimes {
    /// Of those that were answered with 200.
    pub admitted: Vec<f64>,
    /// Of those that were answered with 429.
    pub refused: Vec<f64>,
    /// Refusals without `Retry-After`.
    pub without_retry_after: usize,
    /// Other answers, and connections that broke.
    pub faults: Vec<String>,
    /// Requests that found no connection free: the clients were too slow for the rate.
    pub unsent: usize,
    /// The longest that a request left behind its time.
    pub latest_ms: f64,
    /// From the last request of the plan to the first 200 for one that came after it.
    pub recovery_ms: Option<f64>,
}

struct Shared {
    idle: RefCell<Vec<HttpClient>>,
    times: RefCell<OpenTimes>,
}

impl OpenLoop {
    /// Runs the plan against a server, and then asks until it takes a request again.
    ///
    /// # Errors
    /// When the runtime or a first connection cannot be had.
    pub fn run(&self, address: SocketAddr, texts: WordPool) -> Result<(OpenTimes, WordPool), BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, self.plan(address, texts))
    }

    async fn plan(
        &self,
        address: SocketAddr,
        mut texts: WordPool,
    ) -> Result<(OpenTimes, WordPool), BenchError> {
        let mut last = HttpClient::connect(address).await?;
        let shared = Rc::new(Shared { idle: RefCell::default(), times: RefCell::default() });
        let planned = (self.rate * self.time.as_secs_f64()) as usize;
        let (began, mut connections, mut tasks) = (Instant::now(), 0, vec![]);
        for number in 0..planned {
            let due = began + Duration::from_secs_f64(number as f64 / self.rate);
            while Instant::now() < due {
                tokio::time::sleep_until((due + STEP).into()).await;
            }
            // Between requests that are late already the others must come to their turn too.
            if number % 16 == 0 {
                tokio::task::yield_now().await;
            }
            let late = due.elapsed().as_secs_f64() * 1e3;
            {
                let mut times = shared.times.borrow_mut();
                times.latest_ms = times.latest_ms.max(late);
            }
            let client = shared.idle.borrow_mut().pop();
            if client.is_none() {
                if connections == MOST_CONNECTIONS {
                    shared.times.borrow_mut().unsent += 1;
                    continue;
                }
                connections += 1;
            }
            let body = self.load.body(number, &mut texts);
            tasks.push(tokio::task::spawn_local(shared.clone().request(address, client, body)));
        }
        let ended = Instant::now();
        let recovery = self.recovery(&mut last, &mut texts).await?;
        for task in tasks {
            task.await.map_err(|error| BenchError::Server { reason: error.to_string() })?;
        }
        let shared = Rc::into_inner(shared).expect("the requests have ended");
        let mut times = shared.times.into_inner();
        times.recovery_ms = recovery.map(|at| (at - ended).as_secs_f64() * 1e3);
        Ok((times, texts))
    }

    async fn recovery(
        &self,
        client: &mut HttpClient,
        texts: &mut WordPool,
    ) -> Result<Option<Instant>, BenchError> {
        for attempt in 0..MOST_ATTEMPTS {
            let body = self.load.body(attempt, texts);
            if client.post(PATH, &body).await?.status == 200 {
                return Ok(Some(Instant::now()));
            }
            tokio::time::sleep(STEP).await;
        }
        Ok(None)
    }
}

impl Shared {
    async fn request(self: Rc<Self>, address: SocketAddr, client: Option<HttpClient>, body: String) {
        let connected = match client {
            Some(client) => Ok(client),
            None => HttpClient::connect(address).await,
        };
        let mut client = match connected {
            Ok(client) => client,
            Err(error) => return self.times.borrow_mut().faults.push(error.to_string()),
        };
        let began = Instant::now();
        let reply = client.post(PATH, &body).await;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        let mut times = self.times.borrow_mut();
        match reply {
            Err(error) => return times.faults.push(error.to_string()),
            Ok(reply) => match reply.status {
                200 => times.admitted.push(ms),
                429 => {
                    times.refused.push(ms);
                    times.without_retry_after += usize::from(!reply.has_retry_after);
                }
                status => {
                    let words = String::from_utf8_lossy(reply.body);
                    times.faults.push(format!("{status}: {words}"));
                }
            },
        }
        drop(times);
        self.idle.borrow_mut().push(client);
    }
}
