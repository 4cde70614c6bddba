//! Cold loads: the first reply through an adapter that is neither in host memory nor on the device, beside the next one.

use std::path::PathBuf;

use crate::fleet_client::FleetClient;
use crate::{BenchError, FleetSetup, HttpServer, Passes, ReadFloor, Report, Row, StateDir, WordPool};

const FROM_DISK: &str = r#"polylora_adapter_tier_hits_total{tier="disk"}"#;
/// Fewer would not push each other out.
const FEWEST: usize = 4;

/// A server that keeps one adapter in host memory and on the device, so that of adapters that are asked for in turn each is
/// read from disk every time.
pub struct ColdLoads {
    server: HttpServer,
    client: FleetClient,
    folder: PathBuf,
    names: Vec<String>,
    tokens: usize,
    seen: Vec<ColdLoad>,
    /// How many of the first requests found their adapter on disk, by the server's own count.
    from_disk: f64,
}

#[derive(Clone, Copy, Debug)]
struct ColdLoad {
    first_ms: f64,
    next_ms: f64,
    floor: ReadFloor,
}

impl ColdLoads {
    /// Starts the server with so many adapters.
    ///
    /// # Errors
    /// When folder or server fail.
    pub fn start(setup: &FleetSetup, adapters: usize) -> Result<Self, BenchError> {
        let (folder, names) = setup.adapters("cold", adapters.max(FEWEST))?;
        let own = [
            format!("--adapters-dir={}", folder.display()),
            "--max-loras=1".to_owned(),
            "--max-cpu-loras=1".to_owned(),
        ];
        let server = setup.start(StateDir::Kept("cold"), &own)?;
        let client = FleetClient::connect(server.address)?;
        Ok(Self { server, client, folder, names, tokens: setup.tokens, seen: vec![], from_disk: 0.0 })
    }

    /// Two requests through each adapter, one client. Then the floor of each: after all requests, so that no cache of the
    /// processor holds its files for one and not for the other.
    ///
    /// # Errors
    /// When a request fails.
    pub fn round(&mut self, pool: &mut WordPool) -> Result<(), BenchError> {
        self.client.embed_checked(None, &pool.text(self.tokens))?;
        let before = self.server.metric(FROM_DISK)?;
        let mut pairs = vec![];
        for name in &self.names {
            let mut request = || self.client.embed(Some(name), &pool.text(self.tokens));
            pairs.push((request()?.ms(), request()?.ms()));
        }
        self.from_disk += self.server.metric(FROM_DISK)? - before;
        for (name, (first_ms, next_ms)) in self.names.iter().zip(pairs) {
            let floor = ReadFloor::measure(&self.folder.join(name))?;
            self.seen.push(ColdLoad { first_ms, next_ms, floor });
        }
        Ok(())
    }

    /// Milliseconds of the first and of the next reply, medians.
    pub fn reply_ms(&self) -> [f64; 2] {
        [self.median(|seen| seen.first_ms), self.median(|seen| seen.next_ms)]
    }

    /// Writes the table.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn tell(&self, report: &mut Report) -> Result<(), BenchError> {
        report.note(
            "**Cold load to the first reply.** One client; adapters in turn on a server that keeps one in memory (`--max-loras 1 \
             --max-cpu-loras 1`), so each first request finds its adapter on disk (in the page cache). *Load* is the first reply \
             less the next one. *Floor*: the adapter's files read whole and their SHA-256, in the same rounds. Medians.",
        )?;
        let first = Passes::of(self.seen.iter().map(|seen| seen.first_ms).collect());
        let floor = |of: fn(&ReadFloor) -> f64| self.median(|seen| of(&seen.floor));
        let load = |seen: &ColdLoad| seen.first_ms - seen.next_ms;
        report.row(
            &Row::default()
                .number("loads", self.seen.len() as f64, 0)
                .number("from disk", self.from_disk, 0)
                .number("MB each", floor(|floor| floor.bytes as f64) / 1e6, 2)
                .number("first ms", first.median(), 2)
                .number("p99", first.percentile(0.99), 2)
                .number("next ms", self.median(|seen| seen.next_ms), 2)
                .number("first / next", self.median(|seen| seen.first_ms / seen.next_ms), 2)
                .number("load ms", self.median(load), 2)
                .number("read ms", floor(|floor| floor.read_ms), 2)
                .number("GB/s", floor(|floor| floor.bytes as f64 / floor.read_ms / 1e6), 2)
                .number("SHA-256 ms", floor(|floor| floor.digest_ms), 2)
                .number("floor / load", self.median(|seen| seen.floor.ms() / load(seen)), 2),
        )?;
        let reads = self.seen.len() as f64;
        if (self.from_disk - reads).abs() >= 1.0 {
            let found = self.from_disk;
            report.note(&format!(
                "**Not what was to be measured:** {found} of {reads} first requests read from disk."
            ))?;
        }
        Ok(())
    }

    fn median(&self, of: impl Fn(&ColdLoad) -> f64) -> f64 {
        Passes::of(self.seen.iter().map(of).collect()).median()
    }
}
