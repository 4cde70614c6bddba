//! The fused spike that the CPU engine grew out of: a program outside this repository, with the whole encoder in one
//! function. Built, given the model's weights, run, and understood.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use polylora_kernels_cpu::isa::Isa;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use crate::{BenchError, EncoderSize};

/// The one model it knows.
const SIZE: EncoderSize = EncoderSize::MINILM_L6;
/// Rows of its word table below this are for tokens that no text has; the first of them hold the test texts.
const UNUSED_TOKENS: usize = 100;
/// It computes something else when a text's cosine is lower.
const LOWEST_COSINE: f64 = 0.98;

/// One batch of its fixed list.
#[derive(Clone, Debug, PartialEq)]
pub struct SpikeCase {
    /// Tokens of each text.
    pub lengths: Vec<usize>,
    /// Median milliseconds of a pass.
    pub ms: f64,
}

/// What a run said.
#[derive(Clone, Debug, PartialEq)]
pub struct SpikeRun {
    /// Lowest cosine of its embeddings of the test texts to ours in f32.
    pub lowest_cosine: f64,
    /// The batches.
    pub cases: Vec<SpikeCase>,
}

/// Texts with our own embeddings, which the spike compares its own with.
#[derive(Clone, Copy, Debug)]
pub struct SpikeTexts<'a> {
    /// Ids of each, none below `UNUSED_TOKENS`.
    pub ids: &'a [Vec<u32>],
    /// Embeddings of width 384 in f32.
    pub embeddings: &'a [Vec<f32>],
}

/// The built program in a folder with its weights.
#[derive(Debug)]
pub struct Spike {
    program: PathBuf,
    folder: TempDir,
}

impl Spike {
    /// Builds the package `SOURCE/enc` into `target`, which is its own.
    ///
    /// # Errors
    /// When it does not build.
    pub fn build(source: &Path, target: &Path) -> Result<PathBuf, BenchError> {
        let manifest = source.join("enc/Cargo.toml");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--release", "--bin", "enc", "--manifest-path"]).arg(&manifest);
        let status = cargo.arg("--target-dir").arg(target).status()?;
        if status.success() {
            return Ok(target.join("release").join(format!("enc{}", std::env::consts::EXE_SUFFIX)));
        }
        Err(failure(format!("{} does not build", manifest.display())))
    }

    /// Lays the weights of the model in `dir` beside `program`.
    ///
    /// # Errors
    /// When the checkpoint is none of MiniLM in f32, or the texts do not fit.
    pub fn new(program: PathBuf, dir: &Path, texts: SpikeTexts<'_>) -> Result<Self, BenchError> {
        let folder = tempfile::tempdir()?;
        let bytes = fs::read(dir.join("model.safetensors"))?;
        let checkpoint = SafeTensors::deserialize(&bytes).map_err(|e| failure(e.to_string()))?;
        write_weights(&folder.path().join("weights.f32"), &checkpoint, texts)?;
        Ok(Self { program, folder })
    }

    /// Runs all its batches, each for about `seconds`.
    ///
    /// # Errors
    /// When it fails, or its embeddings are not the model's.
    pub fn run(&self, mode: &str, threads: usize, seconds: f64) -> Result<SpikeRun, BenchError> {
        let mut command = Command::new(&self.program);
        command.args([&threads.to_string(), &seconds.to_string(), mode]).current_dir(self.folder.path());
        let output = command.output()?;
        let words = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(failure(format!("{mode}: {}: {words}{why}", output.status)));
        }
        let run = understand(&words).ok_or_else(|| failure(format!("not understood: {words}")))?;
        if run.lowest_cosine < LOWEST_COSINE {
            let reason = format!("{mode}: another model? The lowest cosine is {}", run.lowest_cosine);
            return Err(failure(reason));
        }
        Ok(run)
    }
}

/// Its name for a dtype on an instruction set; `None` where it has no such path.
pub fn spike_mode(dtype: &str, isa: Isa) -> Option<&'static str> {
    match (dtype, isa) {
        ("f32", Isa::Avx512 | Isa::Amx) => Some("F512"),
        ("f32", Isa::Avx2 | Isa::AvxVnni) => Some("F2"),
        ("bf16", Isa::Amx) => Some("Amx"),
        ("int8", Isa::Avx512 | Isa::Amx) => Some("I512"),
        ("int8", Isa::AvxVnni) => Some("I2"),
        _ => None,
    }
}

/// The ids of its batches: 28,000 tokens, none of which is special.
pub fn spike_ids(lengths: &[usize]) -> Vec<Vec<u32>> {
    let mut at = 0;
    let next = |_: usize| {
        at += 1;
        1000 + ((at - 1) * 7919 % 28_000) as u32
    };
    let flat: Vec<u32> = (0..lengths.iter().sum::<usize>()).map(next).collect();
    let mut rest = flat.as_slice();
    let take = |length: &usize| {
        let (ids, others) = rest.split_at(*length);
        rest = others;
        ids.to_vec()
    };
    lengths.iter().map(take).collect()
}

/// Its one file: f32 values one after the other: word table, positions with token type 0 added, norm, and for each layer
/// query, key, value, output, norm, inner, outer, norm, weight before bias. It reads its test texts from the same file's
/// beginning (count, lengths, ids, embeddings), which is the table's rows for tokens that no text has.
fn write_weights(path: &Path, checkpoint: &SafeTensors<'_>, texts: SpikeTexts<'_>) -> Result<(), BenchError> {
    let tensor = |name: &str| {
        let tensor = checkpoint.tensor(name).map_err(|e| failure(e.to_string()))?;
        if tensor.dtype() != Dtype::F32 {
            return Err(failure(format!("{name} is {:?}, it needs F32", tensor.dtype())));
        }
        let floats = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(floats.collect::<Vec<f32>>())
    };
    let mut words = tensor("embeddings.word_embeddings.weight")?;
    let head = test_texts(texts);
    if head.len() > UNUSED_TOKENS * SIZE.hidden || texts.ids.iter().flatten().any(|id| *id < 100) {
        return Err(failure("the test texts do not fit into the rows of unused tokens".into()));
    }
    words[..head.len()].copy_from_slice(&head);
    let mut positions = tensor("embeddings.position_embeddings.weight")?;
    let first_type = tensor("embeddings.token_type_embeddings.weight")?;
    for row in positions.chunks_exact_mut(SIZE.hidden) {
        row.iter_mut().zip(&first_type).for_each(|(position, token_type)| *position += token_type);
    }
    let mut file = BufWriter::new(fs::File::create(path)?);
    let mut write = |values: &[f32]| values.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()));
    write(&words)?;
    write(&positions)?;
    write(&tensor("embeddings.LayerNorm.weight")?)?;
    write(&tensor("embeddings.LayerNorm.bias")?)?;
    for layer in 0..SIZE.layers {
        for module in [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        ] {
            for part in ["weight", "bias"] {
                write(&tensor(&format!("encoder.layer.{layer}.{module}.{part}"))?)?;
            }
        }
    }
    file.flush()?;
    Ok(())
}

/// Whole numbers travel as the bits of floats.
fn test_texts(texts: SpikeTexts<'_>) -> Vec<f32> {
    let number = |value: usize| f32::from_bits(value as u32);
    let mut head = vec![number(texts.ids.len())];
    head.extend(texts.ids.iter().map(|ids| number(ids.len())));
    head.extend(texts.ids.iter().flatten().map(|id| f32::from_bits(*id)));
    head.extend(texts.embeddings.iter().flatten());
    head
}

/// Lines such as `F512 nt=2 load+pack 0.5s  cosine vs torch f32: min 0.999999 ...` and
/// `  uniform b=10 L=16 tok=160: med   1154.2 texts/s (8.664 ms) p5 ...`.
fn understand(words: &str) -> Option<SpikeRun> {
    let mut run = None;
    for line in words.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let after = |word: &str| {
            let at = fields.iter().position(|field| *field == word)?;
            fields.get(at + 1)?.parse::<f64>().ok()
        };
        let value =
            |name: &str| fields.iter().find_map(|f| f.strip_prefix(name)?.trim_end_matches(':').parse().ok());
        if line.contains(" cosine ") {
            run = Some(SpikeRun { lowest_cosine: after("min")?, cases: vec![] });
        } else if let (Some(texts), Some(length)) = (value("b="), value("L=")) {
            let ms = fields.iter().find_map(|f| f.strip_prefix('(')?.parse().ok())?;
            // Length 0 stands for texts of 4 to 28 tokens.
            let of = |text: usize| if length == 0 { 4 + text * 7919 % 25 } else { length };
            let lengths: Vec<usize> = (0..texts).map(of).collect();
            if value("tok=")? != lengths.iter().sum::<usize>() {
                return None;
            }
            run.as_mut()?.cases.push(SpikeCase { lengths, ms });
        }
    }
    run.filter(|run| !run.cases.is_empty())
}

fn failure(reason: String) -> BenchError {
    BenchError::Program { program: "the spike".to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_are_understood_and_others_are_not() {
        let words = "F512 nt=2 load+pack 0.53s  cosine vs torch f32: min 0.999998 mean 0.999999 maxabs 2.0e-7 single 1.0\n  \
                     uniform b=10 L=16 tok=160: med   1154.2 texts/s (8.664 ms) p5   1200.0 | emb 1% qkv 20%\n  \
                     var4-28 b=100 L=0 tok=1600: med   1200.0 texts/s (83.333 ms) p5   1250.0 | emb 1%\n";
        let run = understand(words).expect("understood");
        assert_eq!(run.lowest_cosine, 0.999998);
        assert_eq!(run.cases[0], SpikeCase { lengths: vec![16; 10], ms: 8.664 });
        assert_eq!((run.cases[1].lengths.len(), run.cases[1].ms), (100, 83.333));
        assert_eq!(understand("thread panicked"), None);
        assert_eq!(understand(&words.replace("tok=160:", "tok=161:")), None);
    }

    #[test]
    fn ids_go_on_from_text_to_text() {
        let ids = spike_ids(&[2, 1, 3]);
        assert_eq!(ids.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 3]);
        assert_eq!(ids.concat()[..3], [1000, 8919, 16_838]);
    }

    #[test]
    fn test_texts_say_their_number_lengths_ids_and_embeddings() {
        let (ids, embeddings) = (vec![vec![500, 600]], vec![vec![0.5; 3]]);
        let head = test_texts(SpikeTexts { ids: &ids, embeddings: &embeddings });
        assert_eq!(head[..4].iter().map(|v| v.to_bits()).collect::<Vec<_>>(), [1, 2, 500, 600]);
        assert_eq!(head[4..], [0.5; 3]);
    }
}
