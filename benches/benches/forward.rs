//! A forward pass of all-MiniLM-L6-v2 on the CPU by batch and length, from ids and from texts, beside its floor.
//!
//! The floor is the time that the pass's operations (see `EncoderSize::pass`) would take at the rate of our own matrix
//! product, measured just before and after each figure, the higher counting. A pass reads 42 MB of weights, so small
//! batches are bound by memory: their share of this floor says little about arithmetic.

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use polylora_benches::{
    EncoderSize, GemmPeak, Report, Row, RowLength, Rows, RunOptions, Subject, WordPool, passes, undisturbed,
};

/// A forward pass of all-MiniLM-L6-v2 on the CPU by batch and length.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// Texts in a batch.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 32, 100])]
    batch: Vec<usize>,
    /// Tokens of each text, special ones included.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 128])]
    tokens: Vec<usize>,
    /// Leave out the texts of mixed length.
    #[arg(long)]
    no_mixed: bool,
}

const PEAK_TIME: Duration = Duration::from_millis(150);

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let dir = options.run.start()?;
    let subject = Subject::load(&dir, options.run.dtype)?;
    let mut pool = WordPool::read(&dir, 1)?;
    let (mut peak, mut report) = (GemmPeak::new(&subject.on), Report::new(options.run.json));
    report.note(&format!(
        "forward: {}, {} threads, {}",
        subject.device,
        options.run.threads(),
        subject.on.dtype_name()
    ))?;

    let fixed = options.tokens.iter().map(|tokens| RowLength::Each(*tokens));
    let lengths: Vec<RowLength> = fixed.chain((!options.no_mixed).then_some(RowLength::Mixed)).collect();
    for length in lengths {
        for batch in &options.batch {
            let rows = Rows::new(&mut pool, subject.model.tokenizer(), *batch, length)?;
            let lengths = rows.lengths();
            let tokens: usize = lengths.iter().sum();
            let flops = EncoderSize::MINILM_L6.pass(&lengths);
            for from in ["ids", "texts"] {
                let measure = || {
                    let before = peak.measure(PEAK_TIME)?;
                    let times = passes(options.run.budget(), || match from {
                        "ids" => subject.embed_base(&rows.ids).map(drop),
                        _ => subject.encode(&rows.texts).and_then(|ids| subject.embed_base(&ids)).map(drop),
                    })?;
                    Ok((before.max(peak.measure(PEAK_TIME)?), times))
                };
                let ((rate, times), others) = undisturbed(options.run.tries, measure)?;
                let seconds = times.median() / 1e3;
                let achieved = flops / seconds / 1e9;
                report.row(
                    &Row::default()
                        .text("from", from)
                        .number("batch", *batch as f64, 0)
                        .text("tokens each", length)
                        .number("tokens", tokens as f64, 0)
                        .passes(&times)
                        .number("tokens/s", tokens as f64 / seconds, 0)
                        .number("texts/s", *batch as f64 / seconds, 0)
                        .number("GFLOP/s", achieved, 1)
                        .number("peak", rate, 1)
                        .number("share of floor", achieved / rate, 2)
                        .others(others),
                )?;
            }
        }
    }
    if let Some([median, lowest, highest]) = peak.seen() {
        report.note(&format!(
            "our own matrix product, 1600 x 384 x 1536: {median:.0} GFLOP/s (lowest {lowest:.0}, highest {highest:.0})"
        ))?;
    }
    Ok(())
}
