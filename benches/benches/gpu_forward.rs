//! A forward pass of all-MiniLM-L6-v2 on a GPU: base, and 13 adapters mixed in the batch, in turn.
//!
//! A pass is what a batch costs a server: ids uploaded, all layers, pooling, vectors read back, the device idle before and
//! after. Rows go round the 13 adapters and are put side by side by adapter, which counts as part of the pass.

use std::error::Error;

use clap::Parser;
use polylora_benches::{
    BenchError, Card, DeviceOptions, EncoderSize, Floor, Random, Report, Row, RowLength, Rows, RunOptions,
    Subject, Targets, WordPool, in_turn, is_software, random_adapters,
};
use polylora_kernels::device::{DTypeSpec, OpenDevice};

/// A forward pass of all-MiniLM-L6-v2 on a GPU.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    device: DeviceOptions,
    /// Texts in a batch.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 32, 100, 512])]
    batch: Vec<usize>,
    /// Tokens of each text, special ones included.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 128])]
    tokens: Vec<usize>,
    /// Leave out the texts of mixed length.
    #[arg(long)]
    no_mixed: bool,
}

const ADAPTERS: usize = 13;
const VARIANTS: [(Targets, usize); 4] =
    [(Targets::QueryValue, 8), (Targets::AllLinear, 8), (Targets::AllLinear, 16), (Targets::AllLinear, 32)];
const SIZE: EncoderSize = EncoderSize::MINILM_L6;
/// What 13 adapters mixed in a batch may cost over the base.
const AIM: f64 = 1.08;

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options::parse();
    if options.device.quick {
        options.batch = vec![2];
        options.tokens = vec![16];
        options.run.seconds = 0.01;
    }
    let card = options.device.card()?;
    let mut report = Report::new(options.run.json);
    for (dtype, opened) in options.device.open() {
        match opened {
            Ok(on) => Bench { on: &on, options: &options, report: &mut report, ratios: vec![] }.run()?,
            Err(why) => floors(&options, &mut report, dtype, card, &why)?,
        }
    }
    Ok(())
}

impl Options {
    fn lengths(&self) -> impl Iterator<Item = RowLength> {
        let fixed = self.tokens.iter().map(|tokens| RowLength::Each(*tokens));
        fixed.chain((!self.no_mixed).then_some(RowLength::Mixed))
    }

    /// Those of one batch, texts of mixed length last.
    fn batches(&self) -> impl Iterator<Item = (RowLength, usize)> {
        self.lengths().flat_map(|length| self.batch.iter().map(move |batch| (length, *batch)))
    }
}

/// Operations of a pass, and its least traffic: the encoder's weights, read once.
fn floor(lengths: &[usize], value: usize) -> Floor {
    let weights = SIZE.layers * (4 * SIZE.hidden * SIZE.hidden + 2 * SIZE.hidden * SIZE.inner);
    Floor { bytes: (value * weights) as f64, flops: SIZE.pass(lengths) }
}

/// The floors alone, where nothing can be measured.
fn floors(
    options: &Options,
    report: &mut Report,
    dtype: DTypeSpec,
    card: &Card,
    why: &str,
) -> Result<(), BenchError> {
    report.note(&format!("gpu_forward, {dtype}: not run: {why}. Floors on {}:", card.name))?;
    let value = if matches!(dtype, DTypeSpec::F16 | DTypeSpec::Bf16) { 2 } else { 4 };
    let mut random = Random::new(1);
    for (length, batch) in options.batches() {
        let tokens_of = |_| match length {
            RowLength::Each(tokens) => tokens,
            RowLength::Mixed => 6 + random.below(117),
        };
        let lengths: Vec<usize> = (0..batch).map(tokens_of).collect();
        let floor = floor(&lengths, value);
        let seconds = floor.seconds(card.bandwidth, card.flops(value));
        let row = shape(batch, length, lengths.iter().sum(), &dtype.to_string(), floor);
        let row = row.number("floor us", seconds * 1e6, 2);
        report.row(&row.number("texts/s at floor", batch as f64 / seconds, 0).text("status", "not run"))?;
    }
    Ok(())
}

fn shape(batch: usize, length: RowLength, tokens: usize, dtype: &str, floor: Floor) -> Row {
    Row::default()
        .text("op", "forward")
        .number("batch", batch as f64, 0)
        .text("tokens each", length)
        .number("tokens", tokens as f64, 0)
        .text("dtype", dtype)
        .number("GFLOP", floor.flops / 1e9, 2)
}

/// One device in one dtype.
struct Bench<'a> {
    on: &'a OpenDevice,
    options: &'a Options,
    report: &'a mut Report,
    ratios: Vec<(f64, String)>,
}

impl Bench<'_> {
    fn run(mut self) -> Result<(), Box<dyn Error>> {
        let dir = self.options.run.start()?;
        let subject = Subject::load_on(&dir, self.on)?;
        let mut pool = WordPool::read(&dir, 1)?;
        self.report.note(&format!("gpu_forward: {}, {}", subject.device, self.on.dtype_name()))?;
        if is_software(&self.on.name) {
            self.report.note("A software adapter: these figures say nothing about a GPU.")?;
        }
        if self.options.device.quick {
            self.report.note("--quick: figures are meaningless.")?;
        }
        let batches: Vec<(RowLength, Rows)> = self
            .options
            .batches()
            .map(|(length, batch)| {
                Ok((length, Rows::new(&mut pool, subject.model.tokenizer(), batch, length)?))
            })
            .collect::<Result<_, BenchError>>()?;
        let variants = if self.options.device.quick { &VARIANTS[1..2] } else { &VARIANTS[..] };
        for (targets, rank) in variants {
            let adapters = random_adapters(&subject.model, SIZE, *targets, &[*rank; ADAPTERS])?;
            let adapters = subject.place(&adapters)?;
            for (length, rows) in &batches {
                let adapter_of: Vec<_> = (0..rows.ids.len()).map(|row| Some(row % ADAPTERS)).collect();
                let [base, with, ratios] = in_turn(
                    self.options.run.budget(),
                    || subject.embed_base(&rows.ids).map(drop),
                    || subject.embed_placed(&rows.ids, &adapters, &adapter_of).map(drop),
                )?;
                let (batch, lengths) = (rows.ids.len(), rows.lengths());
                let floor = floor(&lengths, self.on.dtype.size());
                let ratio = ratios.median();
                let tokens = lengths.iter().sum();
                let row = shape(batch, *length, tokens, self.on.dtype_name(), floor)
                    .text("targets", targets.name())
                    .number("rank", *rank as f64, 0)
                    .number("adapters", batch.min(ADAPTERS) as f64, 0)
                    .number("base ms", base.median(), 3)
                    .number("base texts/s", batch as f64 / base.median() * 1e3, 0)
                    .number("mixed ms", with.median(), 3)
                    .number("mixed texts/s", batch as f64 / with.median() * 1e3, 0)
                    .number("ratio", ratio, 3)
                    .number("ratio min", ratios.min(), 3)
                    .number("ratio max", ratios.max(), 3)
                    .number("passes", base.sorted().len() as f64, 0)
                    .number("FLOPs of LoRA", targets.lora(SIZE, *rank, tokens) / floor.flops, 3)
                    .number("base TFLOP/s", floor.flops / base.median() / 1e9, 2);
                let row = match Card::named(&self.on.name) {
                    Some(card) => {
                        let least = floor.seconds(card.bandwidth, card.flops(self.on.dtype.size()));
                        row.number("floor over base", least * 1e3 / base.median(), 4)
                    }
                    None => row.text("floor over base", "?"),
                };
                self.report.row(&row)?;
                let name = format!("{batch} texts of {length} tokens, {} rank {rank}", targets.name());
                self.ratios.push((ratio, name));
            }
        }
        self.aim()
    }

    /// How often the aim was reached.
    fn aim(&mut self) -> Result<(), Box<dyn Error>> {
        let reached = self.ratios.iter().filter(|(ratio, _)| *ratio <= AIM).count();
        let worst = self.ratios.iter().max_by(|l, r| l.0.total_cmp(&r.0));
        let Some((ratio, at)) = worst else { return Ok(()) };
        self.report.note(&format!(
            "aim: {ADAPTERS} mixed adapters within {:.0} % of the base: reached in {reached} of {}; most: {ratio:.3} \
             ({at})",
            (AIM - 1.0) * 100.0,
            self.ratios.len(),
        ))?;
        Ok(())
    }
}
