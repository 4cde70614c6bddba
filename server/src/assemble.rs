//! From settings to a running engine: device, model, adapters. The only place that knows all of them.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use polylora_adapters::Fleet;
use polylora_engine::{DeviceTurns, EmbeddingService, Engine, GenerationService};
use polylora_hub::{Catalogue, HubConfig, ModelDir, ModelUse, Puller};
use polylora_kernels::device::{DTypeSpec, DeviceSpec, OpenDevice, built_in, is_cpu, open};
use polylora_kernels::{kernel_cache, team};
use polylora_kernels_cpu::WeightFormat;
use tokio::runtime::Handle;

use crate::assemble_embedding::LoadedEncoder;
use crate::assemble_llm::LoadedLlm;
use crate::fleet_duty::warm_up;
use crate::open_fleet::open_fleet;
use crate::settings::{DeviceChoice, DtypeChoice, Settings};

/// More threads than any machine has cores for them are a slip of the pen.
const MOST_THREADS: usize = 1024;

/// Folder of compiled kernels in polylora's own cache.
const KERNELS: &str = "kernels";

/// An adapter that is not in the folder of adapters, under the name it is to be served by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedAdapter {
    /// Its name.
    pub name: String,
    /// Its folder, with an adapter_config.json.
    pub path: PathBuf,
}

/// Engines, one at least, and what the server says about them.
pub struct Assembly {
    /// The engine that makes embeddings, where there is one.
    pub embedding: Option<Arc<dyn EmbeddingService>>,
    /// Further names of its base model from the catalogue, e.g. `sentence-transformers/all-MiniLM-L6-v2`.
    pub embedding_aliases: Vec<String>,
    /// Names of the adapters that were found and refused; each has a log line with its reason.
    pub refused_adapters: Vec<String>,
    /// The adapters, where they are the server's to manage.
    pub fleet: Option<Arc<Fleet>>,
    /// The engine that generates text, where there is one.
    pub generation: Option<Arc<dyn GenerationService>>,
    /// Further names of its base model from the catalogue.
    pub generation_aliases: Vec<String>,
}

/// A step of the assembly that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed")]
pub struct AssembleError {
    /// The step, to be read before "failed", e.g. ``loading the model `all-MiniLM-L6-v2` ``.
    pub step: String,
    /// Why.
    pub source: Box<dyn Error + Send + Sync>,
}

impl AssembleError {
    /// For `map_err`: adds the step to an error.
    pub fn at<E: Into<Box<dyn Error + Send + Sync>>>(step: impl Into<String>) -> impl FnOnce(E) -> Self {
        let step = step.into();
        move |source| Self { step, source: source.into() }
    }
}

/// Starts the engines that the settings ask for, and waits until a probe has gone through the device.
///
/// Chooses the device and dtype, resolves the models (pulling them where needed), loads the weights, checks every adapter of
/// `settings.adapters_dir` and of `extra` by config and headers, and starts the owner threads. With
/// `settings.strict_adapters` one refused adapter is an error; without, it is logged and counted.
///
/// Blocks for as long as that takes: it is called on a thread that may block, inside a tokio runtime.
///
/// # Errors
/// [`AssembleError`] with the step and the reason.
pub fn start_engine(settings: &Settings, extra: &[NamedAdapter]) -> Result<Assembly, AssembleError> {
    if settings.embedding_model.0.is_none() && settings.llm.is_none() {
        let reason = "--embedding-model none leaves nothing to serve: name a model that generates text (--llm), or one that \
                      makes embeddings";
        return Err(AssembleError::at("choosing the models")(reason));
    }
    set_threads(settings)?;
    // Before the models: a device that cannot be used is no reason to fetch one.
    let device = open_device(settings)?;
    tracing::info!("{}", computing_on(&device));
    let encoder = LoadedEncoder::load(settings, &device)?;
    let counts_packed = device.weight_format().is_some_and(|format| format != WeightFormat::F32);
    let llm = LoadedLlm::load(settings, &device)?;
    let bases = encoder.iter().map(LoadedEncoder::base).chain(llm.iter().map(LoadedLlm::base)).collect();
    let fleet = Arc::new(open_fleet(settings, extra, bases, counts_packed)?);
    let refused_adapters = fleet.refused().into_iter().map(|refused| refused.name).collect();
    let turns = (encoder.is_some() && llm.is_some()).then(DeviceTurns::default);
    let started =
        encoder.map(|encoder| encoder.start(settings, &device, &fleet, turns.clone())).transpose()?;
    let (embedding, embedding_aliases) = started.unzip();
    let fallbacks = embedding.as_ref().map(Engine::adapter_fallbacks).unwrap_or_default();
    let started = llm.map(|llm| llm.start(settings, &device, &fleet, turns, fallbacks)).transpose()?;
    let (generation, generation_aliases) = started.unzip();
    let embedding = embedding.map(|engine| Arc::new(engine) as Arc<dyn EmbeddingService>);
    let generation = generation.map(|engine| Arc::new(engine) as Arc<dyn GenerationService>);
    Handle::current().block_on(warm_up(embedding.as_deref(), generation.as_deref(), &fleet, settings));
    Ok(Assembly {
        embedding,
        embedding_aliases: embedding_aliases.unwrap_or_default(),
        refused_adapters,
        fleet: Some(fleet),
        generation,
        generation_aliases: generation_aliases.unwrap_or_default(),
    })
}

/// The compute threads, and those that load adapters: one a core, or as many as the settings say.
pub(crate) fn set_threads(settings: &Settings) -> Result<(), AssembleError> {
    let pool = rayon::ThreadPoolBuilder::new().thread_name(|index| format!("load-{index}"));
    match settings.threads {
        Some(threads) => {
            let step = || format!("starting {threads} compute threads");
            if threads.get() > MOST_THREADS {
                let reason = format!("--threads is {threads}, it must be from 1 to {MOST_THREADS}");
                return Err(AssembleError::at(step())(reason));
            }
            team::set_threads(threads).map_err(AssembleError::at(step()))?;
            let pool = pool.num_threads(threads.get()).build_global();
            pool.map_err(AssembleError::at(step()))
        }
        None => {
            // A pool that is there already has as many threads as nobody asked for.
            let _ = pool.build_global();
            Ok(())
        }
    }
}

/// The model's directory, and the names that the catalogue knows it by beside the first.
pub(crate) fn find_model(
    name_or_dir: &str,
    wanted: ModelUse,
) -> Result<(ModelDir, Vec<String>), AssembleError> {
    let step = || format!("finding the model `{name_or_dir}`");
    let config = HubConfig::from_env().map_err(AssembleError::at(step()))?;
    let puller = Puller::new(Catalogue::builtin(), config).wanting(wanted);
    let dir = puller.resolve(name_or_dir).map_err(AssembleError::at(step()))?;
    let entry = puller.catalogue().find(name_or_dir);
    let aliases = entry.map(|entry| entry.aliases.clone()).unwrap_or_default();
    Ok((dir, aliases))
}

/// A number format as the kernels name it.
pub(crate) fn dtype_spec(choice: DtypeChoice) -> DTypeSpec {
    match choice {
        DtypeChoice::Auto => DTypeSpec::Auto,
        DtypeChoice::F32 => DTypeSpec::F32,
        DtypeChoice::F16 => DTypeSpec::F16,
        DtypeChoice::Bf16 => DTypeSpec::Bf16,
        DtypeChoice::Int8 => DTypeSpec::Int8,
    }
}

fn open_device(settings: &Settings) -> Result<OpenDevice, AssembleError> {
    let device = match settings.device {
        DeviceChoice::Auto => DeviceSpec::Auto,
        DeviceChoice::Cpu => DeviceSpec::Cpu,
        DeviceChoice::Wgpu(index) => DeviceSpec::Wgpu(index),
        DeviceChoice::Cuda(index) => DeviceSpec::Cuda(index),
    };
    let dtype = dtype_spec(settings.dtype);
    keep_kernels(settings, device)?;
    let opened = open(device, dtype).map_err(AssembleError::at(format!("opening the device `{device}`")))?;
    if let Some(asked) = opened.replaced {
        tracing::warn!(
            device = opened.name,
            "the device does not compute in {asked}: weights and adapters are converted to {}",
            opened.dtype_name()
        );
    }
    if is_cpu(&opened.device) && dtype == DTypeSpec::F16 {
        tracing::warn!(%dtype, "f16 runs through the plain reference on the CPU, far slower than f32, bf16 or int8");
    }
    Ok(opened)
}

/// The device, the dtype and the path that its products take, in a line: `computing on cpu (avx512), bf16 by AVX-512 BF16,
/// 2 threads`.
fn computing_on(device: &OpenDevice) -> String {
    let mut line = format!("computing on {}, {}", device.name, device.dtype_name());
    if let Some(path) = device.product_path() {
        line.push_str(&format!(" by {path}"));
    }
    if device.dtype_name() != device.activations_name() {
        line.push_str(&format!(" with {} activations", device.activations_name()));
    }
    if is_cpu(&device.device) {
        line.push_str(&format!(", {}", count(team::threads(), "thread")));
    }
    line
}

/// `1 thread`, `2 threads`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Says where compiled kernels are kept, where there may be a device that compiles any.
fn keep_kernels(settings: &Settings, device: DeviceSpec) -> Result<(), AssembleError> {
    if device == DeviceSpec::Cpu || built_in() == ["cpu"] {
        return Ok(());
    }
    let dir = match &settings.kernel_cache_dir {
        Some(dir) => dir.clone(),
        None => {
            let config = HubConfig::from_env().map_err(AssembleError::at("finding the kernel cache"))?;
            config.home.join(KERNELS)
        }
    };
    match kernel_cache::keep_in(&dir) {
        Ok(()) => tracing::debug!(dir = %dir.display(), "compiled kernels are kept"),
        Err(error) => {
            let why = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            tracing::warn!("compiled kernels are not kept (--kernel-cache-dir): {error}{why}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_at_the_start_says_device_dtype_path_and_threads() {
        for dtype in [DTypeSpec::F32, DTypeSpec::Bf16, DTypeSpec::Int8] {
            let device = open(DeviceSpec::Cpu, dtype).expect("a cpu");
            let line = computing_on(&device);
            let path = device.product_path().expect("a path");
            assert!(line.starts_with(&format!("computing on {}, {dtype} by {path}", device.name)), "{line}");
            assert!(line.ends_with(&format!(", {}", count(team::threads(), "thread"))), "{line}");
        }
        assert_eq!((count(1, "core"), count(2, "core")), ("1 core".into(), "2 cores".into()));
    }
}
