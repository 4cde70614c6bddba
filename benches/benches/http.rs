//! The real server under a closed loop of clients on the same cores: single unique texts to `/v1/embeddings`.
//!
//! Several binaries, encodings, sets of models and numbers of clients take turns, round by round; a line is the median of
//! its rounds. `p99 / fair` is the 99th percentile over clients/throughput: 1 is a queue in which nobody waits longer than
//! his turn. Client and server share the cores; what each spends on a request stands in the line. With `--library`, the
//! library's rate at a batch of 100 texts is measured in the same rounds, and each line says what share of it it is.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Parser;
use polylora_benches::{
    BenchError, EncoderSize, HttpLoad, HttpServer, LibraryLoad, LoadPattern, Passes, Report, Row, RunOptions,
    ServedFigures, Subject, Targets, WordPool, measure_load, own_binary, write_random_adapters,
};

/// The real server under a closed loop of clients.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// The program; given more than once, they take turns [default: that of this build].
    #[arg(long, value_name = "FILE")]
    binary: Vec<PathBuf>,
    /// Connections.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 500])]
    clients: Vec<usize>,
    /// `encoding_format`: float, base64.
    #[arg(long, value_delimiter = ',', default_values_t = ["float".to_owned(), "base64".to_owned()])]
    encoding: Vec<String>,
    /// Adapters that requests go round, beside a run on the base; 0 is the base only.
    #[arg(long, default_value_t = 13)]
    adapters: usize,
    /// Rank of the adapters, on every linear layer.
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Adapters on query and value only.
    #[arg(long)]
    query_value: bool,
    /// Tokens of each text, special ones included.
    #[arg(long, default_value_t = 16)]
    tokens: usize,
    /// Texts of each request.
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    texts: Vec<usize>,
    /// Rounds; `--seconds` is each measurement's.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure the library in the same rounds.
    #[arg(long = "library")]
    with_library: bool,
    /// Say how much time the server's threads took, by name.
    #[arg(long)]
    thread_times: bool,
    /// Further arguments of `polylora serve`, e.g. `--server-arg=--log-level=warn`.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    server_arg: Vec<String>,
}

/// One line of the table while it is measured.
struct Line {
    binary: usize,
    load: HttpLoad,
    rounds: Vec<ServedFigures>,
}

const LIBRARY_BATCH: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let dir = options.run.start()?;
    let mut report = Report::new(options.run.json);
    let binaries = if options.binary.is_empty() { vec![own_binary()?] } else { options.binary.clone() };
    let adapters = tempfile::tempdir()?;
    let targets = if options.query_value { Targets::QueryValue } else { Targets::AllLinear };
    let names = write_random_adapters(
        adapters.path(),
        EncoderSize::MINILM_L6,
        targets,
        &vec![options.rank; options.adapters],
    )?;
    let subject = options.with_library.then(|| Subject::load(&dir, options.run.dtype)).transpose()?;
    let servers = servers(&options, &binaries, &dir, adapters.path())?;
    let mut pool = WordPool::read(&dir, 7)?;
    report.note(&format!(
        "http: closed loop, {} tokens a text, {} rounds of {} s; adapters: rank {}, {}",
        options.tokens,
        options.rounds,
        options.run.seconds,
        options.rank,
        targets.name()
    ))?;
    let mut lines = lines(&options, &names, binaries.len());
    let mut library = vec![];
    for _ in 0..options.rounds.max(1) {
        if let Some(subject) = &subject {
            let (tokens, budget) = (options.tokens, options.run.budget());
            let load = LibraryLoad { texts: LIBRARY_BATCH, tokens, budget };
            library.push(load.rate(subject, &mut pool)?);
        }
        for line in &mut lines {
            let (figures, texts) = measure_load(&servers[line.binary], &line.load, pool)?;
            pool = texts;
            line.rounds.push(figures);
        }
    }
    let library = (!library.is_empty()).then(|| Passes::of(library).median());
    for line in &lines {
        report.row(&row(line, &binaries, library))?;
    }
    if let Some(rate) = library {
        report.note(&format!(
            "library, texts in, vectors out, batches of {LIBRARY_BATCH}: {rate:.0} texts/s"
        ))?;
    }
    if options.thread_times {
        for (binary, server) in binaries.iter().zip(&servers) {
            report.note(&thread_times(binary, server))?;
        }
    }
    Ok(())
}

fn servers(
    options: &Options,
    binaries: &[PathBuf],
    dir: &Path,
    adapters: &Path,
) -> Result<Vec<HttpServer>, BenchError> {
    let mut arguments = vec!["--device=cpu".to_owned()];
    arguments.push(format!("--embedding-model={}", dir.display()));
    if options.adapters > 0 {
        arguments.push(format!("--adapters-dir={}", adapters.display()));
    }
    if let Some(threads) = options.run.threads {
        arguments.push(format!("--threads={threads}"));
    }
    arguments.push(format!("--dtype={}", options.run.dtype));
    let most = options.clients.iter().max().copied().unwrap_or(1);
    arguments.push(format!("--max-concurrent-requests={}", most.max(512)));
    arguments.extend(options.server_arg.iter().cloned());
    binaries.iter().map(|binary| HttpServer::start(binary, &arguments)).collect()
}

fn lines(options: &Options, names: &[String], binaries: usize) -> Vec<Line> {
    let mut lines = vec![];
    let sets = [Some(vec![]), (!names.is_empty()).then(|| names.to_vec())];
    for clients in &options.clients {
        for encoding in &options.encoding {
            for models in sets.iter().flatten() {
                for texts in &options.texts {
                    for binary in 0..binaries {
                        let load = HttpLoad {
                            clients: *clients,
                            time: options.run.budget(),
                            tokens: options.tokens,
                            encoding: encoding.clone(),
                            texts: *texts,
                            models: models.clone(),
                            pattern: LoadPattern::Rounds,
                        };
                        lines.push(Line { binary, load, rounds: vec![] });
                    }
                }
            }
        }
    }
    lines
}

fn row(line: &Line, binaries: &[PathBuf], library: Option<f64>) -> Row {
    let median = |of: fn(&ServedFigures) -> Option<f64>| ServedFigures::median(&line.rounds, of);
    let rate = median(|f| Some(f.rate));
    let fair: Vec<f64> =
        line.rounds.iter().map(|f| f.p99 * f.rate / (line.load.clients as f64 * 1e3)).collect();
    let mut row = Row::default();
    if binaries.len() > 1 {
        let name = binaries[line.binary].file_name().unwrap_or_default();
        row = row.text("binary", name.display());
    }
    let models = if line.load.models.is_empty() { "base".into() } else { line.load.models.len().to_string() };
    row = row
        .number("clients", line.load.clients as f64, 0)
        .text("encoding", &line.load.encoding)
        .text("models", models)
        .number("texts", line.load.texts as f64, 0)
        .number("req/s", rate, 0)
        .number("tokens/s", rate * (line.load.texts * line.load.tokens) as f64, 0)
        .number("lowest", line.rounds.iter().map(|f| f.rate).fold(f64::INFINITY, f64::min), 0)
        .number("p50 ms", median(|f| Some(f.p50)), 2)
        .number("p99 ms", median(|f| Some(f.p99)), 2)
        .number("p99 / fair", Passes::of(fair).median(), 2)
        .number("errors", line.rounds.iter().map(|f| f.errors).sum(), 0)
        .number("server cpu ms", median(|f| f.server_cpu) * 1e3, 3)
        .number("client cpu ms", median(|f| f.client_cpu) * 1e3, 3)
        .number("RSS MB", median(|f| f.resident) / 1e6, 0);
    match library {
        Some(library) => row.number("of library", rate * line.load.texts as f64 / library, 2),
        None => row,
    }
}

fn thread_times(binary: &Path, server: &HttpServer) -> String {
    let mut seconds = server.thread_seconds();
    seconds.sort_by(|a, b| b.1.total_cmp(&a.1));
    let all: f64 = seconds.iter().map(|(_, seconds)| seconds).sum();
    let shares: Vec<String> = seconds
        .iter()
        .map(|(name, seconds)| format!("{name} {seconds:.1} s ({:.1} %)", 100.0 * seconds / all.max(1e-9)))
        .collect();
    format!("threads of {}: {}", binary.display(), shares.join(", "))
}
