//! Throughput with more adapters registered than fit on the device: few are asked for often, many seldom.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fleet_zipf::Zipf;
use crate::{
    BenchError, FleetSetup, HttpLoad, HttpServer, LoadPattern, Passes, Report, Row, ServedFigures, StateDir,
    WordPool, link_adapters, measure_load,
};

/// Adapters that a load goes round: more than are asked for within a measurement.
const DRAWS: usize = 1 << 16;
/// Exponent of Zipf's law.
const EXPONENT: f64 = 1.0;

/// What is measured.
#[derive(Clone, Debug)]
pub struct TierOptions {
    /// Adapters that are registered, a set of servers for each.
    pub registered: Vec<usize>,
    /// Adapters on the device at most, a server for each.
    pub resident: Vec<usize>,
    /// Clients.
    pub clients: usize,
    /// Measured time of each load.
    pub time: Duration,
}

/// A server for each number of registered and of resident adapters, and one of the base alone.
pub struct Tiers {
    base: HttpServer,
    base_rounds: Vec<ServedFigures>,
    lines: Vec<Line>,
    options: TierOptions,
    tokens: usize,
    rounds: u64,
}

struct Line {
    registered: usize,
    resident: usize,
    names: Vec<String>,
    folder: PathBuf,
    server: HttpServer,
    rounds: Vec<Round>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    figures: ServedFigures,
    hits: Hits,
    /// Rate over that of the base in the same round.
    of_base: f64,
    /// Likewise the 99th percentile.
    p99_of_base: f64,
}

/// The server's counts of where adapters were found, and of those that had to leave.
#[derive(Clone, Copy, Debug, Default)]
struct Hits {
    tiers: [f64; 3],
    evictions: f64,
}

impl Tiers {
    /// Writes the adapters once, and starts a server for each line: all run at once.
    ///
    /// # Errors
    /// When folders or servers fail.
    pub fn start(setup: &FleetSetup, options: TierOptions) -> Result<Self, BenchError> {
        let most = options.registered.iter().copied().max().unwrap_or(1).max(1);
        let (all, names) = setup.adapters("tiers", most)?;
        let mut lines = vec![];
        for &registered in &options.registered {
            let registered = registered.max(1);
            let names = names[..registered].to_vec();
            let folder = setup.folder.join(format!("tiers-{registered}"));
            link_adapters(&all, &names, &folder)?;
            for &resident in &options.resident {
                let own = [format!("--adapters-dir={}", folder.display()), format!("--max-loras={resident}")];
                let state = format!("tiers-{registered}-{resident}");
                let server = setup.start(StateDir::Kept(&state), &own)?;
                let (names, folder) = (names.clone(), folder.clone());
                lines.push(Line { registered, resident, names, folder, server, rounds: vec![] });
            }
        }
        let base = setup.start(StateDir::Kept("base"), &[])?;
        Ok(Self { base, base_rounds: vec![], lines, options, tokens: setup.tokens, rounds: 0 })
    }

    /// The base, each line, and the base again.
    ///
    /// # Errors
    /// When a load fails.
    pub fn round(&mut self, pool: WordPool) -> Result<WordPool, BenchError> {
        self.rounds += 1;
        let (before, mut pool) = measure_load(&self.base, &self.load(vec![]), pool)?;
        let mut seen = vec![];
        for line in &self.lines {
            // Another sequence each round: what was asked for last must not be what is in memory.
            let mut zipf = Zipf::new(line.registered, EXPONENT, self.rounds);
            let load = self.load(zipf.names(&line.names, DRAWS));
            let counted = Hits::read(&line.server)?;
            let (figures, rest) = measure_load(&line.server, &load, pool)?;
            seen.push((figures, Hits::read(&line.server)?.since(counted)));
            pool = rest;
        }
        let (after, pool) = measure_load(&self.base, &self.load(vec![]), pool)?;
        let base = |of: fn(&ServedFigures) -> f64| (of(&before) + of(&after)) / 2.0;
        let (rate, p99) = (base(|f| f.rate), base(|f| f.p99));
        for (line, (figures, hits)) in self.lines.iter_mut().zip(seen) {
            let (of_base, p99_of_base) = (figures.rate / rate, figures.p99 / p99);
            line.rounds.push(Round { figures, hits, of_base, p99_of_base });
        }
        self.base_rounds.extend([before, after]);
        Ok(pool)
    }

    fn load(&self, models: Vec<String>) -> HttpLoad {
        HttpLoad {
            clients: self.options.clients,
            time: self.options.time,
            tokens: self.tokens,
            encoding: "float".to_owned(),
            texts: 1,
            models,
            pattern: LoadPattern::Rounds,
        }
    }

    /// Where the adapters of a line lie; `None` where there is none with so many registered.
    pub fn folder(&self, registered: usize) -> Option<&Path> {
        self.lines.iter().find(|line| line.registered == registered).map(|line| line.folder.as_path())
    }

    /// Replies a second with so many registered and so many resident; not a number where that was not measured.
    pub fn rate(&self, registered: usize, resident: usize) -> f64 {
        let line = self.lines.iter().find(|line| (line.registered, line.resident) == (registered, resident));
        line.map_or(f64::NAN, |line| line.median(|round| round.figures.rate))
    }

    /// Writes the table.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn tell(&self, report: &mut Report) -> Result<(), BenchError> {
        report.note(&format!(
            "**More registered than resident.** {} clients in a closed loop, single unique texts of {} tokens, adapters by Zipf's \
             law ({EXPONENT}) anew each round; a server for each line (`--max-loras`, host cache as by default), and one of the \
             base alone before and after them in each round. *Tiers* are shares of `polylora_adapter_tier_hits_total`: on the \
             device, an adapter of a batch; in host memory and on disk, a request's. They and the evictions from the device \
             count the uncounted warm-up, too.",
            self.options.clients, self.tokens
        ))?;
        for line in &self.lines {
            report.row(&line.row())?;
        }
        let base = ServedFigures::middle(&self.base_rounds);
        report.note(&format!(
            "Base alone, in the same rounds: {:.0} req/s, p50 {:.2} ms, p99 {:.2} ms, {:.0} errors.",
            base.rate, base.p50, base.p99, base.errors
        ))
    }
}

impl Line {
    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        let seen: Vec<f64> = self.rounds.iter().map(of).collect();
        if seen.is_empty() { f64::NAN } else { Passes::of(seen).median() }
    }

    fn row(&self) -> Row {
        let figures: Vec<_> = self.rounds.iter().map(|round| round.figures).collect();
        let middle = ServedFigures::middle(&figures);
        let tier = |number: usize| 100.0 * self.median(|round| round.hits.share(number));
        Row::default()
            .number("registered", self.registered as f64, 0)
            .number("resident", self.resident as f64, 0)
            .number("req/s", middle.rate, 0)
            .number("lowest", figures.iter().map(|f| f.rate).fold(f64::INFINITY, f64::min), 0)
            .number("of base", self.median(|round| round.of_base), 3)
            .number("p50 ms", middle.p50, 2)
            .number("p99 ms", middle.p99, 2)
            .number("p99 / base's", self.median(|round| round.p99_of_base), 2)
            .number("device %", tier(0), 1)
            .number("host %", tier(1), 1)
            .number("disk %", tier(2), 2)
            .number("evictions / request", self.median(Round::evictions), 2)
            .number("errors", middle.errors, 0)
            .number("RSS MB", middle.resident.unwrap_or(f64::NAN) / 1e6, 0)
    }
}

impl Round {
    /// Of the device's adapters for a request; host and disk together are one lookup a request.
    fn evictions(&self) -> f64 {
        let [_, host, disk] = self.hits.tiers;
        self.hits.evictions / (host + disk)
    }
}

impl Hits {
    fn read(server: &HttpServer) -> Result<Self, BenchError> {
        let tier =
            |name: &str| server.metric(&format!("polylora_adapter_tier_hits_total{{tier=\"{name}\"}}"));
        let tiers = [tier("device")?, tier("host")?, tier("disk")?];
        Ok(Self { tiers, evictions: server.metric("polylora_pool_evictions_total")? })
    }

    fn since(self, before: Self) -> Self {
        let tiers = [0, 1, 2].map(|tier| self.tiers[tier] - before.tiers[tier]);
        Self { tiers, evictions: self.evictions - before.evictions }
    }

    /// Of a tier, from the device on; not a number when nothing was found anywhere.
    fn share(&self, tier: usize) -> f64 {
        self.tiers[tier] / self.tiers.iter().sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_was_counted_since() {
        let before = Hits { tiers: [10.0, 5.0, 5.0], evictions: 1.0 };
        let after = Hits { tiers: [40.0, 10.0, 10.0], evictions: 3.0 };
        let since = after.since(before);
        assert_eq!([0, 1, 2].map(|tier| since.share(tier)), [0.75, 0.125, 0.125]);
        assert_eq!(since.evictions, 2.0);
        assert!(Hits::default().share(0).is_nan());
    }
}
