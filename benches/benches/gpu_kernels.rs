//! Each op on a GPU beside what it cannot do without: bytes over the device's bandwidth, operations over its peak.
//!
//! LoRA's own time is that of a layer with adapters less that of the same layer without, in turn; the layer has no bias, so
//! the difference is the two LoRA kernels. Inputs and adapters go round as many copies as make 256 MB (16 at most: small
//! shapes stay in the cache, as they do in a model; `round MB` says so). A host share near 1 means that launching was
//! slower than the kernels, and the figure is the host's.

use std::error::Error;
use std::time::Duration;

use burn::tensor::{DType, Int, Tensor, TensorData};
use clap::Parser;
use polylora_benches::{
    BenchError, Bursts, Card, Ceilings, DeviceLayer, DeviceOptions, Floor, KernelShape, Passes, Report, Row,
    ShapeOptions, attention_floor, bursts, bursts_in_turn, embedding_floor, is_software, pooling_floor,
    random_matrix, random_vector,
};
use polylora_kernels::device::{DTypeSpec, OpenDevice};
use polylora_kernels::{
    Attention, AttentionMask, Embedding, HeadShape, Norm, Pooling, Sequences, attention_packed, embed_norm,
    pool,
};

/// Each op on a GPU beside its floor.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    device: DeviceOptions,
    #[command(flatten)]
    shapes: ShapeOptions,
    /// About how long each figure is measured.
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
    /// JSON lines instead of tables.
    #[arg(long)]
    json: bool,
    /// What `cargo bench` adds; of no effect.
    #[arg(long, hide = true)]
    bench: bool,
}

/// MiniLM's attention and tables.
const HEADS: HeadShape = HeadShape { heads: 12, width: 32 };
const WIDTH: usize = 384;
const VOCABULARY: usize = 30_522;
const POSITIONS: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let card = options.device.card()?;
    let shapes = if options.device.quick { ShapeOptions::quick().shapes() } else { options.shapes.shapes() };
    let mut report = Report::new(options.json);
    for (dtype, opened) in options.device.open() {
        match opened {
            Ok(on) => Bench { on: &on, options: &options, report: &mut report }.run(&shapes)?,
            Err(why) => floors(&mut report, dtype, &shapes, card, &why)?,
        }
    }
    Ok(())
}

/// The floors alone, where nothing can be measured.
fn floors(
    report: &mut Report,
    dtype: DTypeSpec,
    shapes: &[KernelShape],
    card: &Card,
    why: &str,
) -> Result<(), BenchError> {
    report.note(&format!("gpu_kernels, {dtype}: not run: {why}. Floors on {}:", card.name))?;
    let value = if matches!(dtype, DTypeSpec::F16 | DTypeSpec::Bf16) { 2 } else { 4 };
    for shape in shapes {
        let floor = shape.lora(value).after_product();
        let micros = floor.seconds(card.bandwidth, card.flops(value)) * 1e6;
        let row = shape.row("lora", &dtype.to_string(), floor).number("floor us", micros, 2);
        report.row(&row.text("status", format!("not run: {why}")))?;
    }
    Ok(())
}

/// One device in one dtype.
struct Bench<'a> {
    on: &'a OpenDevice,
    options: &'a Options,
    report: &'a mut Report,
}

/// What times are held against.
#[derive(Clone, Copy)]
struct Against {
    card: Option<&'static Card>,
    practical: Ceilings,
    value: usize,
}

impl Bench<'_> {
    fn budget(&self) -> Duration {
        let seconds = if self.options.device.quick { 0.01 } else { self.options.seconds };
        Duration::from_secs_f64(seconds.clamp(0.0, 600.0))
    }

    fn run(&mut self, shapes: &[KernelShape]) -> Result<(), BenchError> {
        let (on, quick) = (self.on, self.options.device.quick);
        let against = Against {
            card: Card::named(&on.name),
            practical: Ceilings::measure(on, self.budget(), quick)?,
            value: on.dtype.size(),
        };
        let practical = against.practical;
        self.report.note(&format!(
            "gpu_kernels: {}, {}; in practice {:.1} GB/s (x + 1 over a large tensor), {:.1} TFLOP/s (large product); \
             data sheet: {}",
            on.name,
            on.dtype_name(),
            practical.bandwidth / 1e9,
            practical.flops / 1e12,
            against.card.map_or("unknown card".into(), |card| format!(
                "{} {:.0} GB/s, {:.0} TFLOP/s",
                card.name,
                card.bandwidth / 1e9,
                card.flops(against.value) / 1e12
            )),
        ))?;
        if is_software(&on.name) {
            self.report.note("A software adapter: these figures say nothing about a GPU.")?;
        }
        if quick {
            self.report.note("--quick: figures are meaningless.")?;
        }
        for shape in shapes {
            self.lora(shape, against)?;
        }
        for shape in shapes {
            self.add_norm(shape, against)?;
        }
        let batches: &[(usize, usize)] = if quick { &[(3, 7)] } else { &[(100, 16), (100, 128), (512, 128)] };
        for (texts, tokens) in batches {
            self.whole_rows(*texts, *tokens, against)?;
        }
        Ok(())
    }

    /// LoRA's part of a layer, and the layer.
    fn lora(&mut self, shape: &KernelShape, against: Against) -> Result<(), BenchError> {
        let layer = DeviceLayer::new(self.on, shape)?;
        layer.check(&format!("{shape:?}"))?;
        let ([base, whole], own) = bursts_in_turn(
            &self.on.device,
            self.budget(),
            |number| drop(layer.linear(number, false)),
            |number| drop(layer.linear(number, true)),
        )?;
        let floor = shape.lora(against.value).after_product();
        let row = shape.row("lora", self.on.dtype_name(), floor);
        let row = against.columns(row, floor, &own).number("host share", whole.host_share, 2);
        let fused = shape.layer(against.value).product() + shape.lora(against.value).within_layer();
        let row = row
            .number("base us", base.launch.median() * 1e3, 2)
            .number("whole us", whole.launch.median() * 1e3, 2)
            .number("whole floor us", against.seconds(fused) * 1e6, 2)
            .number("round MB", layer.bytes / 1e6, 0);
        self.report.row(&row)
    }

    /// A layer with residual and norm, with and without adapters.
    fn add_norm(&mut self, shape: &KernelShape, against: Against) -> Result<(), BenchError> {
        // The norm is over whole rows, which adapters' ranks do not change: one rank says enough.
        if shape.rank != 16 && !self.options.device.quick {
            return Ok(());
        }
        let layer = DeviceLayer::new(self.on, shape)?;
        let ([base, whole], _) = bursts_in_turn(
            &self.on.device,
            self.budget(),
            |number| drop(layer.linear_add_norm(number, false)),
            |number| drop(layer.linear_add_norm(number, true)),
        )?;
        let size = shape.layer(against.value);
        let floor = size.product() + size.add_norm();
        let with = floor + shape.lora(against.value).within_layer();
        for (op, floor, times) in
            [("linear_add_norm", floor, base), ("linear_add_norm with LoRA", with, whole)]
        {
            let row = against.columns(shape.row(op, self.on.dtype_name(), floor), floor, &times.launch);
            self.report.row(&row.number("host share", times.host_share, 2))?;
        }
        Ok(())
    }

    /// The ops over whole rows: attention, embedding, pooling.
    fn whole_rows(&mut self, texts: usize, tokens: usize, against: Against) -> Result<(), BenchError> {
        let (on, value, rows) = (self.on, against.value, texts * tokens);
        let lengths = vec![tokens; texts];
        let sequences = Sequences::new(&lengths, &on.device);
        let attention =
            Attention { heads: HEADS, scale: 1.0 / (HEADS.width as f32).sqrt(), mask: AttentionMask::Full };
        let qkv = random_matrix(on, rows, 3 * WIDTH, 1.0);
        let times = self.time(|| drop(attention_packed(qkv.clone(), &sequences, attention)))?;
        self.op("attention_packed", texts, tokens, attention_floor(&lengths, WIDTH, value), &times, against)?;

        let norm = Norm {
            gamma: random_vector(on, WIDTH, 1.0),
            beta: random_vector(on, WIDTH, 1.0),
            epsilon: 1e-12,
        };
        let words = random_matrix(on, VOCABULARY, WIDTH, 1.0);
        let tables = Embedding { words, positions: random_matrix(on, POSITIONS, WIDTH, 1.0), norm };
        let ids = self.ints((0..rows).map(|row| row * 7919 % VOCABULARY));
        let positions = self.ints((0..rows).map(|row| row % tokens));
        let times = self.time(|| drop(embed_norm(ids.clone(), positions.clone(), &tables)))?;
        self.op("embed_norm", texts, tokens, embedding_floor(rows, tokens, WIDTH, value), &times, against)?;

        let hidden = random_matrix(on, rows, WIDTH, 1.0);
        let times = self.time(|| drop(pool(hidden.clone(), &sequences, Pooling::Mean, true)))?;
        self.op("pool", texts, tokens, pooling_floor(rows, texts, WIDTH, value), &times, against)
    }

    fn time(&self, mut launch: impl FnMut()) -> Result<Bursts, BenchError> {
        bursts(&self.on.device, self.budget(), |_| launch())
    }

    fn ints(&self, values: impl Iterator<Item = usize>) -> Tensor<1, Int> {
        let values: Vec<i32> = values.map(|v| v as i32).collect();
        let shape = [values.len()];
        Tensor::from_data(TensorData::new(values, shape), (&self.on.device, DType::I32))
    }

    fn op(
        &mut self,
        op: &str,
        texts: usize,
        tokens: usize,
        floor: Floor,
        times: &Bursts,
        against: Against,
    ) -> Result<(), BenchError> {
        let row = Row::default()
            .text("op", op)
            .number("texts", texts as f64, 0)
            .number("tokens each", tokens as f64, 0)
            .text("dtype", self.on.dtype_name())
            .number("MB", floor.bytes / 1e6, 3)
            .number("MFLOP", floor.flops / 1e6, 1);
        let row = against.columns(row, floor, &times.launch);
        self.report.row(&row.number("host share", times.host_share, 2))
    }
}

impl Against {
    /// Least seconds by the data sheet, or by what was measured where the card is not known.
    fn seconds(self, floor: Floor) -> f64 {
        match self.card {
            Some(card) => floor.seconds(card.bandwidth, card.flops(self.value)),
            None => floor.seconds(self.practical.bandwidth, self.practical.flops),
        }
    }

    /// Time, rates, and shares of the device's rates.
    fn columns(self, row: Row, floor: Floor, times: &Passes) -> Row {
        let row = row
            .number("floor us", self.seconds(floor) * 1e6, 2)
            .number("us", times.median() * 1e3, 2)
            .number("us min", times.min() * 1e3, 2)
            .number("us max", times.max() * 1e3, 2);
        let seconds = times.median() / 1e3;
        let share = |row: Row, name, rate: f64, of: Option<f64>| match of {
            Some(of) if seconds > 0.0 => row.number(name, rate / seconds / of, 3),
            _ => row.text(name, "?"),
        };
        // A difference of two times that is not above 0 was lost in the noise.
        let rate = |row: Row, name, amount: f64| match seconds > 0.0 {
            true => row.number(name, amount / seconds, 2),
            false => row.text(name, "?"),
        };
        let row = rate(rate(row, "GB/s", floor.bytes / 1e9), "TFLOP/s", floor.flops / 1e12);
        let row = share(row, "of bandwidth", floor.bytes, self.card.map(|c| c.bandwidth));
        let row = share(row, "of peak", floor.flops, self.card.map(|c| c.flops(self.value)));
        let row = share(row, "of measured bandwidth", floor.bytes, Some(self.practical.bandwidth));
        share(row, "of measured product", floor.flops, Some(self.practical.flops))
    }
}
