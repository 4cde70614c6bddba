//! What HTTP alone costs: a request that the server reads and refuses before the model is asked.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::http_client::HttpClient;
use crate::http_load::PATH;
use crate::{BenchError, Passes};

/// Requests at least.
const FEWEST: usize = 20;

/// The median milliseconds of a request without inputs, one after the other on one connection for about `budget`.
///
/// # Errors
/// When it is not refused with 400.
pub fn refusal_ms(address: SocketAddr, budget: Duration) -> Result<f64, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = HttpClient::connect(address).await?;
        let (began, mut times) = (Instant::now(), vec![]);
        while times.len() < FEWEST || began.elapsed() < budget {
            let sent = Instant::now();
            let reply = client.post(PATH, r#"{"input":[]}"#).await?;
            if reply.status != 400 {
                let reason = format!("{} for a request without inputs", reply.status);
                return Err(BenchError::Server { reason });
            }
            times.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        Ok(Passes::of(times).median())
    })
}
