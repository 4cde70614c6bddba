//! What adapters cost: a batch through 1, 13 or 100 adapters, measured in turn with the same batch through the base.
//!
//! Every row has an adapter; rows of one adapter lie side by side. The adapters' operations over the base's stand beside
//! the measured ratio: were LoRA as fast as the base, the ratio would be one plus that share. The last line of the short
//! texts is a ladder: adapters of ranks from 4 to 64 in one batch.

use std::error::Error;

use clap::Parser;
use polylora_adapters::LoadedAdapter;
use polylora_benches::{
    BenchError, EncoderSize, Report, Row, RowLength, Rows, RunOptions, Subject, Targets, WordPool, in_turn,
    random_adapters, rank_ladder, undisturbed,
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
    /// Adapters of ranks from 4 to 64, on all linear layers, mixed in one more batch of texts of up to 64 tokens; 0 leaves
    /// it out.
    #[arg(long, default_value_t = 13)]
    ladder: usize,
    /// Texts in a batch.
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// Tokens of each text, special ones included.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 128])]
    tokens: Vec<usize>,
}

/// Longest texts that `--ranks` and `--ladder` are for.
const SHORT: usize = 64;
const SIZE: EncoderSize = EncoderSize::MINILM_L6;

/// A batch that is measured through the base and through adapters.
struct Mix<'a> {
    rows: &'a Rows,
    targets: Targets,
    /// The adapters' ranks, as the table says it.
    name: String,
    ranks: &'a [usize],
    adapters: &'a [LoadedAdapter],
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let dir = options.run.start()?;
    let subject = Subject::load(&dir, options.run.dtype)?;
    let mut pool = WordPool::read(&dir, 2)?;
    let mut report = Report::new(options.run.json);
    report.note(&format!(
        "lora_overhead: {}, {} threads, {}",
        subject.device,
        options.run.threads(),
        subject.on.dtype_name()
    ))?;

    let most = options.distinct.iter().copied().max().unwrap_or(0).min(options.batch);
    for tokens in &options.tokens {
        let rows = Rows::new(&mut pool, subject.model.tokenizer(), options.batch, RowLength::Each(*tokens))?;
        for targets in [Targets::QueryValue, Targets::AllLinear] {
            for rank in if *tokens > SHORT { &options.long_ranks } else { &options.ranks } {
                let ranks = vec![*rank; most];
                let adapters = random_adapters(&subject.model, SIZE, targets, &ranks)?;
                for distinct in options.distinct.iter().filter(|d| (1..=most).contains(*d)) {
                    let (ranks, adapters) = (&ranks[..*distinct], &adapters[..*distinct]);
                    let mix = Mix { rows: &rows, targets, name: rank.to_string(), ranks, adapters };
                    report.row(&mix.measure(&subject, &options)?)?;
                }
            }
        }
        let ranks = rank_ladder(options.ladder.min(options.batch));
        if let (Some(lowest), Some(highest), true) = (ranks.first(), ranks.last(), *tokens <= SHORT) {
            let (targets, name) = (Targets::AllLinear, format!("{lowest} to {highest}"));
            let adapters = random_adapters(&subject.model, SIZE, targets, &ranks)?;
            let mix = Mix { rows: &rows, targets, name, ranks: &ranks, adapters: &adapters };
            report.row(&mix.measure(&subject, &options)?)?;
        }
    }
    Ok(())
}

impl Mix<'_> {
    fn measure(&self, subject: &Subject, options: &Options) -> Result<Row, BenchError> {
        let Mix { rows, targets, name, ranks, adapters } = self;
        let (batch, distinct) = (rows.ids.len(), adapters.len());
        let index = |row: usize| row * distinct / batch;
        let adapter_of: Vec<_> = (0..batch).map(|row| Some(index(row))).collect();
        let measure = || {
            in_turn(
                options.run.budget(),
                || subject.embed_base(&rows.ids).map(drop),
                || subject.embed(&rows.ids, adapters, &adapter_of).map(drop),
            )
        };
        let ([base, with, ratios], others) = undisturbed(options.run.tries, measure)?;
        let lengths = rows.lengths();
        let lora = lengths.iter().enumerate().map(|(row, len)| targets.lora(SIZE, ranks[index(row)], *len));
        Ok(Row::default()
            .number("tokens each", lengths[0] as f64, 0)
            .text("targets", targets.name())
            .text("rank", name)
            .number("adapters", distinct as f64, 0)
            .number("base ms", base.median(), 2)
            .passes(&with)
            .number("ratio", ratios.median(), 3)
            .number("ratio min", ratios.min(), 3)
            .number("ratio max", ratios.max(), 3)
            .number("of base", 1.0 / ratios.median(), 3)
            .number("FLOPs of LoRA", lora.sum::<f64>() / SIZE.pass(&lengths), 3)
            .others(others))
    }
}
