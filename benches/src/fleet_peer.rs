//! PEFT beside the fleet: `peer_fleet.py` with the same adapters, asked in the same rounds.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet_zipf::Zipf;
use crate::python_peer::{PythonPeer, fault};
use crate::timing::median;
use crate::{BenchError, FleetSetup, Report, Row, WordPool};

const SCRIPT: &str = "peer_fleet.py";
/// The two ways in which PEFT loads, as `peer_fleet.py` calls them.
const WAYS: [&str; 2] = ["default", "low_cpu_mem_usage"];
/// Texts that are gone round in a request.
const TEXTS: usize = 512;
/// Exponent of Zipf's law.
const EXPONENT: f64 = 1.0;

/// What it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct PeerLoad {
    /// Adapters that it holds.
    pub adapters: usize,
    /// Of those, how many are loaded anew each round.
    pub loads: usize,
    /// Calls of set_adapter each round.
    pub switches: usize,
    /// Texts of a mixed batch.
    pub batch: usize,
    /// Measured time of a rate.
    pub time: Duration,
}

/// What it is held against, of the same run.
#[derive(Clone, Copy, Debug)]
pub struct PeerRivals {
    /// Milliseconds of the first reply of a cold adapter and of the next one.
    pub reply_ms: [f64; 2],
    /// Milliseconds of a promotion without a state directory.
    pub promote_ms: f64,
    /// Requests a second over as many adapters, by Zipf's law.
    pub rate: f64,
}

/// PEFT in a process of its own.
pub struct FleetPeer {
    process: PythonPeer,
    versions: String,
    load: PeerLoad,
    tokens: usize,
    rounds: u64,
    /// By way: `load`, `first` and `next` of each adapter, in milliseconds.
    cold: [Vec<[f64; 3]>; 2],
    switch_ms: Vec<f64>,
    serial: Vec<f64>,
    mixed: Vec<f64>,
}

impl FleetPeer {
    /// Starts it with the first adapters of a folder.
    ///
    /// # Errors
    /// When Python, PEFT or an adapter fails.
    pub fn start(
        python: &Path,
        setup: &FleetSetup,
        folder: &Path,
        load: PeerLoad,
    ) -> Result<Self, BenchError> {
        let (process, hello) = PythonPeer::start(python, SCRIPT, setup.run.threads(), |command| {
            command.arg("--model").arg(&setup.model).arg("--adapters").arg(folder);
            command.args(["--count", &load.adapters.to_string()]);
        })?;
        let version = |of: &str| hello[of].as_str().unwrap_or("?");
        Ok(Self {
            process,
            versions: format!("PEFT {}, torch {}", version("peft"), version("torch")),
            load,
            tokens: setup.tokens,
            rounds: 0,
            cold: Default::default(),
            switch_ms: vec![],
            serial: vec![],
            mixed: vec![],
        })
    }

    /// Each of its figures once.
    ///
    /// # Errors
    /// When it fails at one.
    pub fn round(&mut self, pool: &mut WordPool) -> Result<(), BenchError> {
        self.rounds += 1;
        let texts: Vec<String> = (0..TEXTS).map(|_| pool.text(self.tokens)).collect();
        let name = |number: usize| format!("adapter-{number}");
        // Each round the next ones; the first adapter stays.
        let others = self.load.adapters.saturating_sub(1).max(1);
        let from = (self.rounds as usize - 1) * self.load.loads;
        let names: Vec<String> =
            (0..self.load.loads.min(others)).map(|number| name(1 + (from + number) % others)).collect();
        let found = self.process.ask(&json!({"do": "load", "names": names, "texts": texts}))?;
        for (way, times) in WAYS.iter().zip(&mut self.cold) {
            for one in found[way].as_array().into_iter().flatten() {
                times.push(["load", "first", "next"].map(|part| one[part].as_f64().unwrap_or(f64::NAN)));
            }
        }
        let mut zipf = Zipf::new(self.load.adapters, EXPONENT, self.rounds);
        let mut drawn = |count: usize| -> Vec<String> { (0..count).map(|_| name(zipf.draw())).collect() };
        let names = drawn(self.load.switches);
        let found = self.process.ask(&json!({"do": "switch", "names": names}))?;
        self.switch_ms.extend(found["ms"].as_array().into_iter().flatten().filter_map(Value::as_f64));
        // No multiple of the texts: they meet other adapters each time round.
        let names = drawn(TEXTS * 4 + 1);
        let seconds = self.load.time.as_secs_f64();
        let mut request = json!({"do": "serial", "names": names, "texts": texts, "seconds": seconds});
        let serial = rate(&self.process.ask(&request)?)?;
        self.serial.push(serial);
        request["do"] = "mixed".into();
        request["batch"] = self.load.batch.into();
        let mixed = rate(&self.process.ask(&request)?)?;
        self.mixed.push(mixed);
        Ok(())
    }

    /// Writes the table.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn tell(&self, report: &mut Report, ours: PeerRivals) -> Result<(), BenchError> {
        report.note(&format!(
            "**Beside {}** (f32, a library call without HTTP), the same adapters, {} of them loaded, in the same rounds. *One by \
             one*: set_adapter and a pass for each text; *mixed*: batches of {} with `adapter_names`; both by Zipf's law, as is \
             polylora's rate over HTTP. A request of polylora's needs no switch: beside set_adapter stands a promotion without a \
             state directory.",
            self.versions, self.load.adapters, self.load.batch
        ))?;
        let [first, next] = ours.reply_ms;
        for (way, times) in WAYS.iter().zip(&self.cold) {
            let part = |part: usize| median(times.iter().map(|one| one[part]).collect());
            report.row(&slower(&format!("cold load to the first reply, ms ({way})"), first, part(1)))?;
            report.row(&slower(&format!("the load of it, ms ({way})"), first - next, part(0)))?;
        }
        let both: Vec<f64> = self.cold.iter().flatten().map(|one| one[2]).collect();
        report.row(&slower("the next reply, ms", next, median(both)))?;
        report.row(&slower("set_adapter, ms", ours.promote_ms, median(self.switch_ms.clone())))?;
        report.row(&faster("one by one, texts/s", ours.rate, median(self.serial.clone())))?;
        report.row(&faster("mixed, texts/s", ours.rate, median(self.mixed.clone())))
    }
}

fn rate(answer: &Value) -> Result<f64, BenchError> {
    let texts = answer["texts"].as_f64().zip(answer["seconds"].as_f64());
    texts
        .map(|(texts, seconds)| texts / seconds)
        .ok_or_else(|| fault(SCRIPT, &format!("{answer} is no rate")))
}

/// A time, of which less is better.
fn slower(what: &str, ours: f64, peers: f64) -> Row {
    row(what, ours, peers, peers / ours, 3)
}

/// A rate, of which more is better.
fn faster(what: &str, ours: f64, peers: f64) -> Row {
    row(what, ours, peers, ours / peers, 0)
}

fn row(what: &str, ours: f64, peers: f64, times: f64, decimals: usize) -> Row {
    let row =
        Row::default().text("what", what).number("polylora", ours, decimals).number("PEFT", peers, decimals);
    row.number("times better", times, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_texts_over_seconds_and_anything_else_is_a_fault() {
        assert_eq!(rate(&json!({"texts": 30, "seconds": 1.5})).expect("a rate"), 20.0);
        assert!(rate(&json!({"texts": 30})).is_err());
    }
}
