//! A decoder's folder with what a server needs beside weights, and random adapters for it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use polylora_adapters::{AdapterManifest, BaseModel, FileTrust, LoadedAdapter};
use polylora_models::{DecoderConfig, LanguageModel, numbered_tokenizer};

use crate::random_adapters::write_peft;
use crate::{BenchError, Random};

const TOKENIZER: &str = "tokenizer.json";
/// PEFT's mixed batches are generated for this task only.
const TASK: &str = "CAUSAL_LM";

/// A decoder's folder, and the folder within another one where it stands with a tokenizer.
#[derive(Clone, Debug)]
pub struct DecoderFolder {
    /// Where it is served from.
    pub dir: PathBuf,
    /// Its shape.
    pub config: DecoderConfig,
}

impl DecoderFolder {
    /// `llm` is a model's folder, or one with such a `model` within. A model without a tokenizer gets one in `place`, which writes
    /// tokens as their numbers; what it has is linked there.
    ///
    /// # Errors
    /// When it is no decoder, or `place` cannot be written.
    pub fn new(llm: &Path, place: &Path) -> Result<Self, BenchError> {
        let within = llm.join("model");
        let own = if within.is_dir() { within } else { llm.to_owned() };
        let config = DecoderConfig::read(&own)?;
        if own.join(TOKENIZER).is_file() {
            return Ok(Self { dir: own, config });
        }
        let dir = place.join("llm");
        fs::create_dir(&dir)?;
        for entry in fs::read_dir(&own)? {
            let path = entry?.path();
            let path = path.canonicalize()?;
            link(&path, &dir.join(path.file_name().unwrap_or_default()))?;
        }
        fs::write(dir.join(TOKENIZER), numbered_tokenizer(config.vocab_size))?;
        Ok(Self { dir, config })
    }

    /// Writes `count` random adapters of `rank` on all linear layers into a new folder, as a server finds them; their names.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_adapters(
        &self,
        model: &LanguageModel,
        folder: &Path,
        count: usize,
        rank: usize,
    ) -> Result<Vec<String>, BenchError> {
        fs::create_dir(folder)?;
        let sites: Vec<_> = model.catalog().sites().iter().filter(|site| site.name != "lm_head").collect();
        let targets = sites.iter().filter_map(|site| site.name.rsplit('.').next());
        let targets: Vec<&str> = targets.collect::<BTreeSet<_>>().into_iter().collect();
        let make = |number: usize| {
            let name = format!("adapter{number}");
            let own = folder.join(&name);
            fs::create_dir(&own)?;
            let modules = sites.iter().map(|site| (site.name.clone(), [site.in_width, site.out_width]));
            write_peft(&own, modules, (&targets, Some(TASK)), (rank, Random::new(number as u64)))?;
            Ok(name)
        };
        (0..count).map(make).collect()
    }
}

/// Loads the adapters of those names.
///
/// # Errors
/// When one is refused.
pub fn load_decoder_adapters(
    model: &LanguageModel,
    folder: &Path,
    names: &[String],
) -> Result<Vec<LoadedAdapter>, BenchError> {
    let load = |name: &String| {
        let manifest =
            AdapterManifest::inspect(&folder.join(name), FileTrust::WithinFolder, model.catalog())?;
        Ok(manifest.load(model)?)
    };
    names.iter().map(load).collect()
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(from, to)
}

#[cfg(not(unix))]
fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::copy(from, to).map(drop)
}
