//! What a load against a server comes to: the clients' times beside what both sides used of the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{BenchError, HttpLoad, HttpServer, HttpTimes, Passes, WordPool, own_cpu_seconds};

/// Figures of one measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServedFigures {
    /// Replies a second.
    pub rate: f64,
    /// Milliseconds of a reply, the mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// Replies that were refusals, and connections that broke.
    pub errors: f64,
    /// Seconds of processor time that the server used for a reply; `None` where there is no /proc.
    pub server_cpu: Option<f64>,
    /// Likewise the clients.
    pub client_cpu: Option<f64>,
    /// Cores that the clients used on average.
    pub client_cores: Option<f64>,
    /// The server's resident memory in bytes at the end.
    pub resident: Option<f64>,
}

/// Processor time of both sides at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuReading {
    at: Instant,
    server: Option<f64>,
    own: Option<f64>,
}

impl CpuReading {
    /// As of now.
    pub(crate) fn take(server: &HttpServer) -> Self {
        Self { at: Instant::now(), server: server.cpu_seconds(), own: own_cpu_seconds() }
    }
}

impl ServedFigures {
    /// Of `times` that were measured from `before` to now.
    pub(crate) fn since(before: CpuReading, times: &HttpTimes, server: &HttpServer) -> Self {
        let after = CpuReading::take(server);
        let replies = times.latency.sorted().len() as f64;
        let own = after.own.zip(before.own).map(|(after, before)| after - before);
        let wall = (after.at - before.at).as_secs_f64();
        Self {
            rate: times.rate,
            mean: times.latency.mean(),
            p50: times.latency.median(),
            p99: times.latency.percentile(0.99),
            errors: times.errors as f64,
            server_cpu: after.server.zip(before.server).map(|(after, before)| (after - before) / replies),
            client_cpu: own.map(|own| own / replies),
            client_cores: own.map(|own| own / wall),
            resident: server.resident_bytes().map(|bytes| bytes as f64),
        }
    }

    /// The median of each figure over several measurements; of errors, their sum.
    pub fn middle(rounds: &[Self]) -> Self {
        let median = |of: fn(&Self) -> Option<f64>| Self::median(rounds, of);
        let known = |of| Some(median(of)).filter(|value| value.is_finite());
        Self {
            rate: median(|f| Some(f.rate)),
            mean: median(|f| Some(f.mean)),
            p50: median(|f| Some(f.p50)),
            p99: median(|f| Some(f.p99)),
            errors: rounds.iter().map(|f| f.errors).sum(),
            server_cpu: known(|f| f.server_cpu),
            client_cpu: known(|f| f.client_cpu),
            client_cores: known(|f| f.client_cores),
            resident: known(|f| f.resident),
        }
    }

    /// The median of one figure over several measurements; not a number where nobody has it.
    pub fn median(of: &[Self], figure: impl Fn(&Self) -> Option<f64>) -> f64 {
        let seen: Vec<f64> = of.iter().filter_map(figure).collect();
        if seen.is_empty() { f64::NAN } else { Passes::of(seen).median() }
    }
}

/// Runs a closed loop against a server. The processor times are those of the measured time. Errors are told on standard
/// error.
///
/// # Errors
/// The loop's own.
pub fn measure_load(
    server: &HttpServer,
    load: &HttpLoad,
    pool: WordPool,
) -> Result<(ServedFigures, WordPool), BenchError> {
    let measuring = Arc::new(AtomicBool::new(false));
    let begun = measuring.clone();
    // A second thread takes the first reading.
    let (result, before) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            while !measuring.load(Ordering::Acquire) {
                sleep(Duration::from_millis(2));
            }
            CpuReading::take(server)
        });
        let result = load.run(server.address, pool, move || begun.store(true, Ordering::Release));
        measuring.store(true, Ordering::Release);
        (result, reading.join().expect("a reading"))
    });
    let (times, pool) = result?;
    if let Some(error) = &times.first_error {
        eprintln!("{} errors, the first: {error}", times.errors);
    }
    Ok((ServedFigures::since(before, &times, server), pool))
}
