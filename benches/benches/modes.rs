//! The ways to serve many domains, side by side on one machine: serial behind a lock, a pool of instances, batched mixed and
//! batched domain by domain.
//!
//! Each is the real server as a process of its own; all take turns, round by round, under the same loads, and a line is the
//! median of its rounds. Texts are unique and single, the memo of embeddings is off (its default), the clients are native and
//! share the cores with the servers: what they use stands in the table. The library's rates are measured in the same rounds.
//! At the end, traffic of the base alone on a server with adapters loaded, in turn with a server that has none. The tables
//! and the plot go into RESULTS.md (unless `--quick`), the aims with what became of them below.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use polylora_adapters::LoadedAdapter;
use polylora_benches::{
    BarChart, BasePairs, BenchError, EncoderSize, HttpServer, LibraryLoad, ModeFigures, Passes, Report, Row,
    RunOptions, Scenario, ServedFigures, ServedMode, Subject, Targets, WordPool, load_adapter, measure_load,
    own_binary, refusal_ms, results_file, write_part, write_random_adapters,
};
use polylora_kernels::device::{DeviceSpec, is_cpu, open};

/// The ways to serve many domains, side by side.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// The program [default: that of this build].
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// cpu, wgpu, wgpu:N, cuda or cuda:N.
    #[arg(long, default_value_t = DeviceSpec::Cpu)]
    device: DeviceSpec,
    /// Instances of the pool.
    #[arg(long, default_value_t = 4)]
    pool_size: usize,
    /// Tokens of each text, special ones included.
    #[arg(long, default_value_t = 16)]
    tokens: usize,
    /// Rounds; `--seconds` is each measurement's, more with many clients.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Rounds of the comparison of servers with and without adapters.
    #[arg(long, default_value_t = 8)]
    pairs: usize,
    /// One round of few clients, to try the program: figures are meaningless, and RESULTS.md stays as it is.
    #[arg(long)]
    quick: bool,
    /// Further arguments of `polylora serve`.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    server_arg: Vec<String>,
}

const SIZE: EncoderSize = EncoderSize::MINILM_L6;
const DOMAINS: usize = 13;
const RANK: usize = 8;
const BATCH: usize = 100;
/// One, a busy server, a crowded one.
const CLIENTS: [usize; 3] = [1, BATCH, 500];
const QUICK_CLIENTS: [usize; 3] = [1, 20, 50];

/// A server; without a mode it is batched, mixed, and has no adapters.
struct Served {
    mode: Option<ServedMode>,
    server: HttpServer,
    resident_at_start: f64,
}

/// What was measured.
struct Comparison {
    figures: ModeFigures,
    /// The library's texts a second through adapters, in batches of 1 and of [`BATCH`].
    adapted: [f64; 2],
    pairs: BasePairs,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options::parse();
    if options.quick {
        (options.rounds, options.pairs) = (1, 1);
    }
    let dir = options.run.start()?;
    let folder = tempfile::tempdir()?;
    let names = write_random_adapters(folder.path(), SIZE, Targets::AllLinear, &[RANK; DOMAINS])?;
    let on = open(options.device, options.run.dtype)?;
    let subject = Subject::load_on(&dir, &on)?;
    let adapters = names.iter().map(|name| load_adapter(&folder.path().join(name), &subject.model));
    let adapters = adapters.collect::<Result<Vec<_>, _>>()?;

    let model = format!("--embedding-model={}", dir.display());
    let with_adapters = format!("--adapters-dir={}", folder.path().display());
    let mut served = vec![];
    for mode in modes(&options) {
        let own = mode.map(|_| with_adapters.clone());
        served.push(start(mode, [model.clone()].into_iter().chain(own).collect(), &options)?);
    }
    let comparison = compare(&options, &dir, &served, (&subject, &names, &adapters))?;
    let mut report = Report::new(options.run.json).keeping();
    report.note(&format!(
        "`cargo bench -p polylora-benches --bench modes`: {}, {} threads, {}; {DOMAINS} adapters of rank {RANK} on all linear \
         layers; single unique texts of {} tokens, memo of embeddings off; native clients on the same cores; {} rounds.",
        subject.device,
        options.run.threads(),
        subject.on.dtype_name(),
        options.tokens,
        options.rounds
    ))?;
    tell(&comparison, &mut report)?;
    report.note("Aims:")?;
    for aim in comparison.figures.aims(!is_cpu(&on.device)).iter().chain(&comparison.pairs.aims()) {
        report.row(&aim.row())?;
    }
    if !options.quick {
        let (file, plot) = (results_file(), "modes.svg");
        fs::write(file.with_file_name(plot), chart(&comparison.figures, &options).svg())?;
        write_part(&file, "modes", &format!("{}\n![req/s by load and mode]({plot})\n", report.kept()))?;
    }
    Ok(())
}

fn compare(
    options: &Options,
    dir: &Path,
    served: &[Served],
    (subject, names, adapters): (&Subject, &[String], &[LoadedAdapter]),
) -> Result<Comparison, Box<dyn Error>> {
    let mut pool = WordPool::read(dir, 11)?;
    let (tokens, budget) = (options.tokens, options.run.budget());
    let mut lines: Vec<(&Served, Scenario, Vec<ServedFigures>)> = vec![];
    for scenario in scenarios(options) {
        // Without adapters there is only the base; with them, a glance at the base is enough.
        let is_base = matches!(scenario, Scenario::Base { .. });
        let takes_part =
            |one: &&Served| is_base == one.mode.is_none() || scenario == (Scenario::Base { clients: 1 });
        lines.extend(served.iter().filter(takes_part).map(|one| (one, scenario, vec![])));
    }
    let mut library: [Vec<f64>; 4] = Default::default();
    for _ in 0..options.rounds.max(1) {
        let [one, many] = [1, BATCH].map(|texts| LibraryLoad { texts, tokens, budget });
        library[0].push(one.rate(subject, &mut pool)?);
        library[1].push(many.rate(subject, &mut pool)?);
        library[2].push(one.adapted_rate(subject, adapters, &mut pool)?);
        library[3].push(many.adapted_rate(subject, adapters, &mut pool)?);
        for (one, scenario, rounds) in &mut lines {
            let (figures, rest) = measure_load(&one.server, &scenario.load(names, tokens, budget), pool)?;
            pool = rest;
            rounds.push(figures);
        }
    }
    let [library_1, library_100, adapted_1, adapted_100] = library.map(|rates| Passes::of(rates).median());
    let [_, busy, crowd] = options.clients();
    let figures = ModeFigures {
        busy,
        crowd,
        lines: lines.iter().map(|(one, s, rounds)| (one.mode, *s, ServedFigures::middle(rounds))).collect(),
        memory: served.iter().map(|one| (one.mode, [one.resident_at_start, resident(&one.server)])).collect(),
        library_1,
        library_100,
        http_ms: refusal_ms(served[0].server.address, budget)?,
        weight_bytes: weight_bytes(dir, subject.on.dtype_name())?,
    };
    let find = |mode| &served.iter().find(|one| one.mode == mode).expect("it was started").server;
    let load = Scenario::Base { clients: busy }.load(names, tokens, budget);
    let servers = [find(Some(ServedMode::Mixed)), find(None)];
    let (pairs, _) = BasePairs::measure(servers, &load, options.pairs, pool)?;
    Ok(Comparison { figures, adapted: [adapted_1, adapted_100], pairs })
}

fn tell(comparison: &Comparison, report: &mut Report) -> Result<(), BenchError> {
    let Comparison { figures, adapted, pairs } = comparison;
    for (mode, scenario, line) in &figures.lines {
        report.row(&row(*mode, *scenario, line))?;
    }
    report.note(&format!(
        "Library, texts in, vectors out: {:.0} texts/s one at a time, {:.0} in batches of {BATCH} (through adapters {:.0} and \
         {:.0}). A request that the server refuses unasked of the model: {:.3} ms.",
        figures.library_1, figures.library_100, adapted[0], adapted[1], figures.http_ms
    ))?;
    for (mode, [at_start, at_end]) in &figures.memory {
        let row = Row::default().text("mode", name(*mode)).number("RSS MB at start", at_start / 1e6, 0);
        report.row(&row.number("at the end", at_end / 1e6, 0))?;
    }
    report.note(&format!(
        "Base traffic, {} clients, servers in turn: without adapters, with {DOMAINS} loaded, without.",
        figures.busy
    ))?;
    for [before, with, after] in &pairs.rates {
        let row = Row::default().number("none, req/s", *before, 0).number("13 adapters", *with, 0);
        report.row(&row.number("none again", *after, 0).number("ratio", 2.0 * with / (before + after), 3))?;
    }
    Ok(())
}

fn modes(options: &Options) -> [Option<ServedMode>; 5] {
    use ServedMode::{Mixed, PerDomain, Pooled, Serial};
    [Some(Serial), Some(Pooled(options.pool_size)), Some(PerDomain), Some(Mixed), None]
}

impl Options {
    fn clients(&self) -> [usize; 3] {
        if self.quick { QUICK_CLIENTS } else { CLIENTS }
    }
}

fn scenarios(options: &Options) -> Vec<Scenario> {
    let clients = options.clients();
    let domains = clients.map(|clients| Scenario::Domains { clients, domains: DOMAINS });
    let base = clients.map(|clients| Scenario::Base { clients });
    let first = [Scenario::Burst { texts: 100, domains: 5 }, Scenario::OneEach { domains: DOMAINS }];
    first.into_iter().chain(domains).chain(base).collect()
}

fn start(
    mode: Option<ServedMode>,
    mut arguments: Vec<String>,
    options: &Options,
) -> Result<Served, Box<dyn Error>> {
    let binary = options.binary.clone().map_or_else(own_binary, Ok)?;
    arguments.extend(mode.unwrap_or(ServedMode::Mixed).arguments());
    arguments.push(format!("--device={}", options.device));
    arguments.push(format!("--dtype={}", options.run.dtype));
    arguments.push(format!("--max-concurrent-requests={}", 2 * CLIENTS[2]));
    arguments.extend(options.run.threads.map(|threads| format!("--threads={threads}")));
    arguments.extend(options.server_arg.iter().cloned());
    let server = HttpServer::start(&binary, &arguments)?;
    Ok(Served { mode, resident_at_start: resident(&server), server })
}

fn resident(server: &HttpServer) -> f64 {
    server.resident_bytes().map_or(f64::NAN, |bytes| bytes as f64)
}

/// Parameters of the checkpoint, in f32 there, in the served format.
fn weight_bytes(dir: &Path, dtype: &str) -> Result<f64, std::io::Error> {
    let share = match dtype {
        "f32" => 1.0,
        "int8" => 0.25,
        _ => 0.5,
    };
    Ok(fs::metadata(dir.join("model.safetensors"))?.len() as f64 * share)
}

fn name(mode: Option<ServedMode>) -> String {
    mode.map_or("batched, no adapters".to_owned(), |mode| mode.to_string())
}

fn row(mode: Option<ServedMode>, scenario: Scenario, figures: &ServedFigures) -> Row {
    let known = |value: Option<f64>| value.unwrap_or(f64::NAN);
    Row::default()
        .text("load", scenario)
        .text("mode", name(mode))
        .number("req/s", figures.rate, 0)
        .number("mean ms", figures.mean, 2)
        .number("p50 ms", figures.p50, 2)
        .number("p99 ms", figures.p99, 2)
        .number("errors", figures.errors, 0)
        .number("RSS MB", known(figures.resident) / 1e6, 0)
        .number("server cpu ms", known(figures.server_cpu) * 1e3, 3)
        .number("client cpu ms", known(figures.client_cpu) * 1e3, 3)
        .number("client cores", known(figures.client_cores), 2)
}

fn chart(figures: &ModeFigures, options: &Options) -> BarChart {
    let mut modes: Vec<Option<ServedMode>> = figures.memory.iter().map(|(mode, _)| *mode).collect();
    modes.dedup();
    let rate = |mode: &Option<ServedMode>, scenario| figures.of(*mode, scenario).map(|f| f.rate);
    let group =
        |scenario: Scenario| (scenario.to_string(), modes.iter().map(|mode| rate(mode, scenario)).collect());
    BarChart {
        title: "Replies a second by load and mode".to_owned(),
        series: modes.iter().map(|mode| name(*mode)).collect(),
        groups: scenarios(options).into_iter().map(group).collect(),
    }
}
