//! Ten times more requests than the server can answer.
//!
//! In each round: *full load*, as many clients in a closed loop as the server lets in at once; then an *open loop* at ten
//! times the rate of that, in which requests leave at their times whatever became of the others; then a request every
//! millisecond until one is taken. Texts are unique, clients native and on the same cores, and at ten times the rate they
//! take a good part of them: their share stands in the table.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use polylora_benches::{
    Aim, HttpLoad, HttpServer, LoadPattern, OpenLoop, OpenTimes, Passes, Report, Row, RunOptions,
    ServedFigures, WordPool, measure_load, own_binary, own_cpu_seconds, results_file, write_part,
};

/// Ten times more requests than the server can answer.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// The program [default: that of this build].
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Requests that the server lets in at once.
    #[arg(long, default_value_t = 100)]
    permits: usize,
    /// How many times the rate at full load is asked for.
    #[arg(long, default_value_t = 10.0)]
    factor: f64,
    /// Tokens of each text, special ones included.
    #[arg(long, default_value_t = 16)]
    tokens: usize,
    /// Rounds; `--seconds` is each measurement's.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// One short round, to try the program: figures are meaningless, and RESULTS.md stays as it is.
    #[arg(long)]
    quick: bool,
    /// Further arguments of `polylora serve`.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    server_arg: Vec<String>,
}

struct Round {
    full: ServedFigures,
    open: OpenTimes,
    client_cores: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options::parse();
    if options.quick {
        (options.rounds, options.run.seconds) = (1, 0.2);
    }
    let dir = options.run.start()?;
    let mut pool = WordPool::read(&dir, 12)?;
    let mut arguments = vec![
        "--device=cpu".to_owned(),
        format!("--embedding-model={}", dir.display()),
        format!("--dtype={}", options.run.dtype),
        format!("--max-concurrent-requests={}", options.permits),
    ];
    arguments.extend(options.run.threads.map(|threads| format!("--threads={threads}")));
    arguments.extend(options.server_arg.iter().cloned());
    let server = HttpServer::start(&options.binary.clone().map_or_else(own_binary, Ok)?, &arguments)?;
    let load = HttpLoad {
        clients: options.permits,
        time: options.run.budget(),
        tokens: options.tokens,
        encoding: "float".to_owned(),
        texts: 1,
        models: vec![],
        pattern: LoadPattern::Rounds,
    };
    let mut rounds = vec![];
    for _ in 0..options.rounds.max(1) {
        let (full, rest) = measure_load(&server, &load, pool)?;
        let plan = OpenLoop { load: load.clone(), rate: full.rate * options.factor, time: load.time };
        let cpu = own_cpu_seconds();
        let (open, rest) = plan.run(server.address, rest)?;
        let used = own_cpu_seconds().zip(cpu).map_or(f64::NAN, |(after, before)| after - before);
        pool = rest;
        rounds.push(Round { full, open, client_cores: used / load.time.as_secs_f64() });
    }
    let mut report = Report::new(options.run.json).keeping();
    report.note(&format!(
        "`cargo bench -p polylora-benches --bench overload`: {} requests at once let in, an open loop at {} times the rate of as \
         many clients; single unique texts of {} tokens, {}, {} threads.",
        options.permits,
        options.factor,
        options.tokens,
        options.run.dtype,
        options.run.threads()
    ))?;
    for round in &rounds {
        report.row(&row(round))?;
    }
    for round in &rounds {
        if let Some(fault) = round.open.faults.first() {
            eprintln!("{} faults, the first: {fault}", round.open.faults.len());
        }
    }
    report.note("Aims:")?;
    for aim in aims(&rounds) {
        report.row(&aim.row())?;
    }
    if !options.quick {
        write_part(&results_file(), "overload", report.kept())?;
    }
    Ok(())
}

fn row(round: &Round) -> Row {
    let Round { full, open, client_cores } = round;
    Row::default()
        .number("full load req/s", full.rate, 0)
        .number("p99 ms", full.p99, 2)
        .number("asked", planned(open) as f64, 0)
        .number("admitted", open.admitted.len() as f64, 0)
        .number("their p99 ms", p99(&open.admitted), 2)
        .number("refused", open.refused.len() as f64, 0)
        .number("429 p50 ms", percentile(&open.refused, 0.5), 2)
        .number("429 p99 ms", p99(&open.refused), 2)
        .number("faults", open.faults.len() as f64, 0)
        .number("unsent", open.unsent as f64, 0)
        .number("latest ms", open.latest_ms, 1)
        .number("client cores", *client_cores, 2)
        .number("recovery ms", open.recovery_ms.unwrap_or(f64::NAN), 2)
}

fn aims(rounds: &[Round]) -> Vec<Aim> {
    let median = |of: fn(&Round) -> f64| Passes::of(rounds.iter().map(of).collect()).median();
    let sum = |of: fn(&Round) -> usize| rounds.iter().map(of).sum::<usize>() as f64;
    vec![
        Aim::at_most(
            "p99 of the admitted / at full load",
            median(|r| p99(&r.open.admitted) / r.full.p99),
            2.0,
        ),
        Aim::at_most("429: p99 ms", median(|r| p99(&r.open.refused)), 10.0),
        Aim::at_most("neither 200 nor 429", sum(|r| r.open.faults.len()), 0.0),
        Aim::at_most("429 without Retry-After", sum(|r| r.open.without_retry_after), 0.0),
        // A place is free again when the next of those inside is done.
        Aim::at_most(
            "first success after the last request / p50 at full load",
            median(|r| r.open.recovery_ms.unwrap_or(f64::NAN) / r.full.p50),
            2.0,
        ),
    ]
}

fn planned(open: &OpenTimes) -> usize {
    open.admitted.len() + open.refused.len() + open.faults.len() + open.unsent
}

fn p99(times: &[f64]) -> f64 {
    percentile(times, 0.99)
}

fn percentile(times: &[f64], share: f64) -> f64 {
    if times.is_empty() { f64::NAN } else { Passes::of(times.to_vec()).percentile(share) }
}
