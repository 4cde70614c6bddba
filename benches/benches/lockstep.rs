//! Our side of `peers.py`: measures what each line of standard input asks for, so that it can take turns with others.
//!
//! A request is a JSON object: `texts`, and optionally `adapters` (an index into `--adapter`, or null, for each text) and
//! `seconds`. The answer: `ms` (every pass, texts in, vectors out, ascending), `tokens`, `embeddings`. Before the first
//! request it says its `device`, its `dtype`, its `threads` and where its `model` lies.

use std::error::Error;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use polylora_benches::{BenchError, RunOptions, Subject, load_adapter, passes};
use serde_json::{Value, json};

/// Measures on request, in step with another program.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// A PEFT folder; may be given more than once.
    #[arg(long, value_name = "DIR")]
    adapter: Vec<PathBuf>,
}

struct Request {
    texts: Vec<String>,
    adapter_of: Vec<Option<usize>>,
    budget: Duration,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let subject = Subject::load(&options.run.start()?, options.run.dtype)?;
    let load = |folder: &PathBuf| load_adapter(folder, &subject.model);
    let adapters = options.adapter.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    let hello = json!({
        "device": subject.device,
        "dtype": subject.on.dtype_name(),
        "threads": options.run.threads(),
        "model": subject.model.dir(),
    });
    writeln!(stdout().lock(), "{hello}")?;
    for (number, line) in stdin().lock().lines().enumerate() {
        let request = parse(&line?, adapters.len(), options.run.budget())
            .map_err(|reason| BenchError::Request { line: number + 1, reason })?;
        let ids = subject.encode(&request.texts)?;
        let embeddings = subject.embed(&ids, &adapters, &request.adapter_of)?;
        let times = passes(request.budget, || {
            let ids = subject.encode(&request.texts)?;
            subject.embed(&ids, &adapters, &request.adapter_of).map(drop)
        })?;
        let tokens: usize = ids.iter().map(Vec::len).sum();
        let answer = json!({ "ms": times.sorted(), "tokens": tokens, "embeddings": embeddings });
        let mut out = stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn parse(line: &str, adapters: usize, budget: Duration) -> Result<Request, String> {
    let json: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let texts = json["texts"].as_array().ok_or("`texts` is no list")?;
    let texts: Vec<String> = texts.iter().filter_map(|t| Some(t.as_str()?.to_owned())).collect();
    let adapter_of: Vec<Option<usize>> = match json["adapters"].as_array() {
        None => vec![None; texts.len()],
        Some(list) => list.iter().map(|a| a.as_u64().map(|a| a as usize)).collect(),
    };
    if texts.is_empty() || adapter_of.len() != texts.len() {
        return Err(format!("{} adapters for {} texts", adapter_of.len(), texts.len()));
    }
    if let Some(unknown) = adapter_of.iter().flatten().find(|a| **a >= adapters) {
        return Err(format!("adapter {unknown} of {adapters}"));
    }
    let seconds = json["seconds"].as_f64().filter(|s| (0.0..=600.0).contains(s));
    Ok(Request { texts, adapter_of, budget: seconds.map_or(budget, Duration::from_secs_f64) })
}
