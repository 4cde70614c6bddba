//! Beside the fused spike: what splitting the encoder into ops costs. `benches/spike.sh DIR` builds the spike and runs this.
//!
//! The spike is a program outside this repository that computes MiniLM in one function, for one model and without adapters:
//! a bound on what the machine gives. It and the library take turns, round by round, on the same ids; a figure is the median
//! of its rounds' medians.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use polylora_benches::{
    Aim, Passes, Report, Row, RowLength, Rows, RunOptions, Spike, SpikeCase, SpikeTexts, Subject, WordPool,
    passes, spike_ids, spike_mode,
};
use polylora_kernels::device::DTypeSpec;
use polylora_kernels_cpu::isa::Isa;

/// The library beside the fused spike.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// The spike's folder, in which `enc` is.
    #[arg(long, value_name = "DIR", required_unless_present = "program")]
    source: Option<PathBuf>,
    /// Where it is built [default: a temporary folder].
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
    /// The program, when it is built already.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Rounds; `--seconds` is each figure's in each round.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Texts that show that the spike computes the same.
const TEST_TEXTS: usize = 16;
const TEST_TOKENS: usize = 16;
/// From so many tokens on, the first gap is allowed; at one text of at most so many, the second.
const FULL_TOKENS: usize = 320;
const FULL_GAP: f64 = 1.10;
const SHORT_TOKENS: usize = 16;
const SHORT_GAP: f64 = 1.25;

/// One turn of both.
struct Round {
    theirs: Vec<SpikeCase>,
    /// Median milliseconds of ours, in the same order.
    ours: Vec<f64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let dir = options.run.start()?;
    let temporary = tempfile::tempdir()?;
    let program = match (&options.program, &options.source) {
        (Some(program), _) => std::path::absolute(program)?,
        (None, Some(source)) => {
            let target = options.target.clone().unwrap_or_else(|| temporary.path().to_owned());
            Spike::build(source, &target)?
        }
        (None, None) => return Err("--source or --program".into()),
    };
    let reference = Subject::load(&dir, DTypeSpec::F32)?;
    let mut pool = WordPool::read(&dir, 6)?;
    let length = RowLength::Each(TEST_TOKENS);
    let rows = Rows::new(&mut pool, reference.model.tokenizer(), TEST_TEXTS, length)?;
    let embeddings = reference.embed_base(&rows.ids)?;
    let spike = Spike::new(program, &dir, SpikeTexts { ids: &rows.ids, embeddings: &embeddings })?;
    drop(reference);

    let subject = Subject::load(&dir, options.run.dtype)?;
    let (dtype, threads) = (subject.on.dtype_name(), options.run.threads());
    let mut report = Report::new(options.run.json);
    let Some(mode) = spike_mode(dtype, Isa::current()) else {
        report.note(&format!("spike: NOT RUN: it has no {dtype} for {}", Isa::current().name()))?;
        return Ok(());
    };
    let mut rounds = vec![];
    let mut lowest_cosine = f64::INFINITY;
    for _ in 0..options.rounds.max(1) {
        let run = spike.run(mode, threads, options.run.seconds)?;
        lowest_cosine = lowest_cosine.min(run.lowest_cosine);
        let mut ours = vec![];
        for case in &run.cases {
            let ids = spike_ids(&case.lengths);
            ours.push(passes(options.run.budget(), || subject.embed_base(&ids).map(drop))?.median());
        }
        rounds.push(Round { theirs: run.cases, ours });
    }
    report.note(&format!(
        "spike: {}, {threads} threads, {dtype} beside {mode}, {} rounds; its lowest cosine to our f32: {lowest_cosine:.6}",
        subject.device,
        rounds.len()
    ))?;
    let mut aims = vec![];
    for (index, case) in rounds[0].theirs.iter().enumerate() {
        let lengths = &case.lengths;
        let median = |of: &dyn Fn(&Round) -> f64| Passes::of(rounds.iter().map(of).collect()).median();
        let theirs = median(&|round| round.theirs[index].ms);
        let ours = median(&|round| round.ours[index]);
        // Neighbours in time are compared, not medians of the whole.
        let gap = median(&|round| round.ours[index] / round.theirs[index].ms);
        let (shortest, longest) = (lengths.iter().min(), lengths.iter().max());
        let each = if shortest == longest { RowLength::Each(lengths[0]).to_string() } else { "4..28".into() };
        let tokens: usize = lengths.iter().sum();
        let name = format!("time over the spike's, {} x {each}, {dtype}", lengths.len());
        let allowed = match (tokens, lengths.len()) {
            (FULL_TOKENS.., _) => Some(FULL_GAP),
            (..=SHORT_TOKENS, 1) => Some(SHORT_GAP),
            _ => None,
        };
        aims.extend(allowed.map(|most| Aim::at_most(name, gap, most)));
        report.row(
            &Row::default()
                .number("texts", lengths.len() as f64, 0)
                .text("tokens each", each)
                .number("tokens", tokens as f64, 0)
                .number("spike ms", theirs, 3)
                .number("polylora ms", ours, 3)
                .number("time over the spike's", gap, 3)
                .text("allowed", allowed.map_or("-".to_owned(), |most| format!("{most:.2}"))),
        )?;
    }
    report.note("allowed gaps")?;
    aims.iter().try_for_each(|aim| report.row(&aim.row()))?;
    Ok(())
}
