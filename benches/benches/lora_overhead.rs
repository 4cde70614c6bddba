//! What adapters cost: a batch through 1, 13 or 100 adapters, measured in turn with the same batch through the base.
//!
//! Every row has an adapter; rows of one adapter lie side by side. The adapters' operations over the base's stand beside
//! the measured ratio: were LoRA as fast as the base, the ratio would be one plus that share.

use std::error::Error;

use clap::Parser;
use polylora_adapters::LoadedAdapter;
use polylora_benches::{
    EncoderSize, Report, Row, RowLength, Rows, RunOptions, Subject, Targets, WordPool, in_turn,
    random_adapters, undisturbed,
};

/// What LoRA adapters cost in a batch.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// Ranks for texts of up to 64 tokens.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 8, 16, 32, 64])]
    ranks: Vec<usize>,
    /// Ranks for longer texts.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 64])]
    long_ranks: Vec<usize>,
    /// Distinct adapters in a batch.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 13, 100])]
    distinct: Vec<usize>,
    /// Texts in a batch.
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// Tokens of each text, special ones included.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 128])]
    tokens: Vec<usize>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let dir = options.run.start()?;
    let subject = Subject::load(&dir, options.run.dtype)?;
    let mut pool = WordPool::read(&dir, 2)?;
    let mut report = Report::new(options.run.json);
    report.note(&format!("lora_overhead: {}, {} threads, f32", subject.device, options.run.threads()))?;

    let size = EncoderSize::MINILM_L6;
    let most = options.distinct.iter().copied().max().unwrap_or(0).min(options.batch);
    for tokens in &options.tokens {
        let rows = Rows::new(&mut pool, subject.model.tokenizer(), options.batch, RowLength::Each(*tokens))?;
        for targets in [Targets::QueryValue, Targets::AllLinear] {
            for rank in if *tokens > 64 { &options.long_ranks } else { &options.ranks } {
                let adapters = random_adapters(&subject.model, size, targets, *rank, most)?;
                for distinct in options.distinct.iter().filter(|d| (1..=most).contains(*d)) {
                    let adapters: &[LoadedAdapter] = &adapters[..*distinct];
                    let adapter_of: Vec<_> =
                        (0..options.batch).map(|row| Some(row * distinct / options.batch)).collect();
                    let measure = || {
                        in_turn(
                            options.run.budget(),
                            || subject.embed_base(&rows.ids).map(drop),
                            || subject.embed(&rows.ids, adapters, &adapter_of).map(drop),
                        )
                    };
                    let ([base, with, ratios], others) = undisturbed(options.run.tries, measure)?;
                    let all = options.batch * tokens;
                    let share = targets.lora(size, *rank, all) / size.pass(&rows.lengths());
                    report.row(
                        &Row::default()
                            .number("tokens each", *tokens as f64, 0)
                            .text("targets", targets.name())
                            .number("rank", *rank as f64, 0)
                            .number("adapters", *distinct as f64, 0)
                            .number("base ms", base.median(), 2)
                            .passes(&with)
                            .number("ratio", ratios.median(), 3)
                            .number("ratio min", ratios.min(), 3)
                            .number("ratio max", ratios.max(), 3)
                            .number("FLOPs of LoRA", share, 3)
                            .others(others),
                    )?;
                }
            }
        }
    }
    Ok(())
}
