//! Whether a token costs the same in short and long texts, and in small and large batches.
//!
//! First, passes of about the same number of tokens over texts of 16 to 256 tokens. Attention grows with the square of a
//! text's length, so its share is taken out, in two ways: *timed*, the model's attention op run alone in turn with the
//! passes, over the same texts a few hundred tokens a thread at a time (as the model has them in its cache); and *reckoned*,
//! its operations at the rate of our own matrix product. Then passes over 10 to 1,000 texts of one length; the same through
//! HTTP is `--bench http --texts`.

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use polylora_benches::{
    Aim, BenchError, EncoderSize, GemmPeak, Report, Row, RowLength, Rows, RunOptions, Subject, WordPool,
    in_turn, passes, random_matrix, undisturbed,
};
use polylora_kernels::{Attention, AttentionMask, HeadShape, Sequences, attention_packed};

/// Tokens a second by length of texts, attention taken out, and by texts in a batch.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// Tokens of each text, special ones included.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 32, 64, 128, 256])]
    tokens: Vec<usize>,
    /// Tokens in one pass, about, while lengths are compared.
    #[arg(long, default_value_t = 4096)]
    pass_tokens: usize,
    /// Texts in one pass.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 32, 100, 320, 1000])]
    texts: Vec<usize>,
    /// Tokens of each of them.
    #[arg(long, default_value_t = 16)]
    text_tokens: usize,
}

const SIZE: EncoderSize = EncoderSize::MINILM_L6;
const HEADS: HeadShape = HeadShape { heads: 12, width: 32 };
/// Tokens of which attention is run alone at once, for each thread.
const SHARE_TOKENS: usize = 384;
const PEAK_TIME: Duration = Duration::from_millis(150);
/// Lowest rate over highest: flat within 15 %.
const FLAT: f64 = 0.85;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let dir = options.run.start()?;
    let subject = Subject::load(&dir, options.run.dtype)?;
    let mut pool = WordPool::read(&dir, 5)?;
    let mut report = Report::new(options.run.json);
    report.note(&format!(
        "flatness: {}, {} threads, {}",
        subject.device,
        options.run.threads(),
        subject.on.dtype_name()
    ))?;
    let (mut timed, mut reckoned) = (vec![], vec![]);
    let mut peak = GemmPeak::new(&subject.on);
    for tokens in &options.tokens {
        let batch = (options.pass_tokens / tokens).max(1);
        let rows = Rows::new(&mut pool, subject.model.tokenizer(), batch, RowLength::Each(*tokens))?;
        let found = by_length(&subject, &rows, &mut peak, &options)?;
        timed.push(found.timed);
        reckoned.push(found.reckoned);
        report.row(&found.row)?;
    }
    let mut by_texts = vec![];
    report.note(&format!("by texts in a pass, {} tokens each", options.text_tokens))?;
    for texts in &options.texts {
        let length = RowLength::Each(options.text_tokens);
        let rows = Rows::new(&mut pool, subject.model.tokenizer(), *texts, length)?;
        let measure = || passes(options.run.budget(), || subject.embed_base(&rows.ids).map(drop));
        let (times, others) = undisturbed(options.run.tries, measure)?;
        let rate = (texts * options.text_tokens) as f64 / times.median() * 1e3;
        by_texts.push(rate);
        let row = Row::default().number("texts", *texts as f64, 0).passes(&times);
        report.row(&row.number("tokens/s", rate, 0).others(others))?;
    }
    report.note("lowest rate over highest")?;
    for (what, rates) in [
        ("tokens/s by length, attention as timed taken out", &timed),
        ("tokens/s by length, attention as reckoned taken out", &reckoned),
        ("tokens/s by texts in a pass", &by_texts),
    ] {
        report.row(&Aim::at_least(what, flatness(rates), FLAT).row())?;
    }
    Ok(())
}

struct ByLength {
    row: Row,
    timed: f64,
    reckoned: f64,
}

fn by_length(
    subject: &Subject,
    rows: &Rows,
    peak: &mut GemmPeak,
    options: &Options,
) -> Result<ByLength, BenchError> {
    let (lengths, each) = (rows.lengths(), rows.ids[0].len());
    let tokens: usize = lengths.iter().sum();
    // Pieces as large as the threads' shares of a batch; the last one may be shorter.
    let at_once = (SHARE_TOKENS * options.run.threads() / each).clamp(1, lengths.len());
    let pieces: Vec<Sequences> =
        lengths.chunks(at_once).map(|piece| Sequences::new(piece, &subject.on.device)).collect();
    let qkv = |sequences: &Sequences| {
        random_matrix(&subject.on, sequences.rows(), 3 * HEADS.heads * HEADS.width, 1.0)
    };
    let (first, last) = (qkv(&pieces[0]), qkv(&pieces[pieces.len() - 1]));
    let attention =
        Attention { heads: HEADS, scale: 1.0 / (HEADS.width as f32).sqrt(), mask: AttentionMask::Full };
    let attend = || {
        for _ in 0..SIZE.layers {
            for piece in &pieces {
                let qkv = if piece.rows() == pieces[0].rows() { &first } else { &last };
                drop(attention_packed(qkv.clone(), piece, attention));
            }
        }
        Ok(())
    };
    let measure = || {
        let before = peak.measure(PEAK_TIME)?;
        let times = in_turn(options.run.budget(), || subject.embed_base(&rows.ids).map(drop), attend)?;
        Ok((before.max(peak.measure(PEAK_TIME)?), times))
    };
    let ((rate, [pass, alone, _]), others) = undisturbed(options.run.tries, measure)?;
    let pairs: usize = lengths.iter().map(|l| l * l).sum();
    let reckoned_ms = (SIZE.layers * 4 * SIZE.hidden * pairs) as f64 / rate / 1e6;
    let without = |taken: f64| tokens as f64 / (pass.median() - taken) * 1e3;
    let (timed, reckoned) = (without(alone.median()), without(reckoned_ms));
    let row = Row::default()
        .number("tokens each", each as f64, 0)
        .number("texts", lengths.len() as f64, 0)
        .passes(&pass)
        .number("tokens/s", without(0.0), 0)
        .number("attention ms, timed", alone.median(), 2)
        .number("reckoned", reckoned_ms, 2)
        .number("tokens/s without it, timed", timed, 0)
        .number("without it, reckoned", reckoned, 0)
        .others(others);
    Ok(ByLength { row, timed, reckoned })
}

/// Lowest over highest; 0 where there is none, or where more was taken out than there was.
fn flatness(rates: &[f64]) -> f64 {
    let lowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = rates.iter().copied().fold(0.0, f64::max);
    if lowest.is_finite() && lowest > 0.0 { lowest / highest } else { 0.0 }
}
