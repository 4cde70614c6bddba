//! The fleet of adapters through the real server: what it costs that adapters come, change and go while it answers.
//!
//! Five parts, all servers at once, all in turn in every round: cold loads to the first reply; hot reloads under clients;
//! promote and roll back with and without a registry on disk; throughput with more adapters registered than resident, beside
//! the base alone; and PEFT on the same adapters where its Python is given. Floors (reading and digesting files, a synced
//! write) are measured in the same rounds. The tables go into RESULTS.md, unless `--quick`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use polylora_benches::{
    BenchError, ColdLoads, FLEET_RANK, FleetPeer, FleetSetup, HotReloads, PeerLoad, PeerRivals, Report,
    RunOptions, Switches, TierOptions, Tiers, WordPool, own_binary, results_file, write_part,
};

/// The fleet of adapters through the real server.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// The program [default: that of this build].
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where adapters and registries are written, which are deleted at the end [default: the system's folder for such files].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Rounds; `--seconds` is each load's time in each of them.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Tokens of each text, special ones included.
    #[arg(long, default_value_t = 16)]
    tokens: usize,
    /// Adapters that are loaded cold in each round.
    #[arg(long, default_value_t = 64)]
    cold: usize,
    /// Hot reloads in each round, one every 100 ms.
    #[arg(long, default_value_t = 40)]
    reloads: usize,
    /// Clients meanwhile.
    #[arg(long, default_value_t = 8)]
    reload_clients: usize,
    /// Promotions, and as many rollbacks, in all rounds.
    #[arg(long, default_value_t = 200)]
    calls: usize,
    /// Adapters that are registered, with `--resident` a line each.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 16, 100, 1000])]
    registered: Vec<usize>,
    /// Adapters on the device at most.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 16])]
    resident: Vec<usize>,
    /// Clients of those.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Python with PEFT, as `benches/peers.sh` makes it: DIR/venv/bin/python.
    #[arg(long, value_name = "PATH")]
    peer_python: Option<PathBuf>,
    /// One small round, to try the program: figures are meaningless, and RESULTS.md stays as it is.
    #[arg(long)]
    quick: bool,
    /// Further arguments of every `polylora serve`.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    server_arg: Vec<String>,
}

/// Adapters that PEFT holds at most.
const PEER_ADAPTERS: usize = 100;
/// Adapters that it loads anew, and switches, in each round: it takes its time for both.
const PEER_LOADS: usize = 4;
const PEER_SWITCHES: usize = 20;

/// All parts, in the order in which they take turns.
struct Parts {
    cold: ColdLoads,
    reloads: HotReloads,
    switches: Switches,
    tiers: Tiers,
    /// PEFT, or why it was not run.
    peer: Result<FleetPeer, String>,
    /// Adapters that it holds.
    peer_adapters: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options::parse();
    if options.quick {
        options.shrink();
    } else {
        check_markers(&results_file())?;
    }
    let model = options.run.start()?;
    let folder = match &options.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let setup = FleetSetup {
        binary: options.binary.clone().map_or_else(own_binary, Ok)?,
        model: model.clone(),
        folder: folder.path().to_owned(),
        tokens: options.tokens,
        run: options.run.clone(),
        more: options.server_arg.clone(),
    };
    let mut parts = Parts::start(&setup, &options)?;
    let mut pool = WordPool::read(&model, 13)?;
    let calls = options.calls.div_ceil(options.rounds.max(1));
    for _ in 0..options.rounds.max(1) {
        pool = parts.round(calls, pool)?;
    }
    let mut report = Report::new(options.run.json).keeping();
    report.note(&format!(
        "`cargo bench -p polylora-benches --bench fleet`: {}, {} threads; adapters of rank {FLEET_RANK} on all linear layers; all \
         servers at once, in turn, {} rounds of {} s a load; native clients on the same cores.",
        options.run.dtype,
        options.run.threads(),
        options.rounds,
        options.run.seconds
    ))?;
    parts.tell(&mut report, &options)?;
    if !options.quick {
        write_part(&results_file(), "fleet", report.kept())?;
    }
    Ok(())
}

impl Options {
    fn shrink(&mut self) {
        (self.rounds, self.run.seconds, self.clients) = (1, 0.2, 16);
        (self.cold, self.reloads, self.calls) = (4, 3, 5);
        (self.registered, self.resident) = (vec![4, 16], vec![4]);
    }

    fn most_resident(&self) -> usize {
        self.resident.iter().copied().max().unwrap_or(1)
    }
}

impl Parts {
    fn start(setup: &FleetSetup, options: &Options) -> Result<Self, BenchError> {
        let tiers = TierOptions {
            registered: options.registered.clone(),
            resident: options.resident.clone(),
            clients: options.clients,
            time: options.run.budget(),
        };
        let tiers = Tiers::start(setup, tiers)?;
        let peer_adapters =
            options.registered.iter().copied().filter(|n| *n <= PEER_ADAPTERS).max().unwrap_or(0);
        Ok(Self {
            cold: ColdLoads::start(setup, options.cold)?,
            reloads: HotReloads::start(
                setup,
                options.reload_clients,
                options.reloads,
                options.rounds.max(1),
            )?,
            switches: Switches::start(setup)?,
            peer: start_peer(setup, options, tiers.folder(peer_adapters), peer_adapters),
            tiers,
            peer_adapters,
        })
    }

    fn round(&mut self, calls: usize, mut pool: WordPool) -> Result<WordPool, BenchError> {
        self.cold.round(&mut pool)?;
        self.switches.round(calls)?;
        pool = self.reloads.round(pool)?;
        pool = self.tiers.round(pool)?;
        let outcome = self.peer.as_mut().map_or(Ok(()), |peer| peer.round(&mut pool));
        if let Err(error) = outcome {
            self.peer = Err(error.to_string());
        }
        Ok(pool)
    }

    fn tell(&self, report: &mut Report, options: &Options) -> Result<(), BenchError> {
        self.cold.tell(report)?;
        self.reloads.tell(report)?;
        self.switches.tell(report)?;
        self.tiers.tell(report)?;
        match &self.peer {
            Ok(peer) => {
                let ours = PeerRivals {
                    reply_ms: self.cold.reply_ms(),
                    promote_ms: self.switches.promote_ms(),
                    rate: self.tiers.rate(self.peer_adapters, options.most_resident()),
                };
                peer.tell(report, ours)
            }
            Err(reason) => {
                // Also where only JSON lines are looked at.
                eprintln!("NOT RUN: PEFT beside it: {reason}");
                report.note(&format!("**NOT RUN: PEFT beside it**: {reason}."))
            }
        }
    }
}

fn start_peer(
    setup: &FleetSetup,
    options: &Options,
    folder: Option<&Path>,
    adapters: usize,
) -> Result<FleetPeer, String> {
    let python = options.peer_python.as_ref().ok_or("no `--peer-python PATH` was given")?;
    let folder = folder.ok_or_else(|| format!("no line has at most {PEER_ADAPTERS} adapters registered"))?;
    let load = PeerLoad {
        adapters,
        loads: PEER_LOADS,
        switches: PEER_SWITCHES,
        batch: options.clients,
        time: options.run.budget(),
    };
    FleetPeer::start(python, setup, folder, load).map_err(|error| error.to_string())
}

/// Before a long run: RESULTS.md has a place for what it finds.
fn check_markers(file: &Path) -> Result<(), BenchError> {
    let text = fs::read_to_string(file)?;
    let is_there = ["begin", "end"].iter().all(|end| text.contains(&format!("<!-- fleet:{end} -->")));
    let missing = || BenchError::Markers { file: file.to_owned(), name: "fleet".to_owned() };
    is_there.then_some(()).ok_or_else(missing)
}
