//! From settings to a running engine: device, model, adapters. The only place that knows all of them.

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use polylora_adapters::{Base, BaseModel, Fleet};
use polylora_engine::{
    EmbeddingService, EncoderRunner, Engine, EngineConfig, EngineParts, LoraRoom, ModelInfo, RunError,
    Runner, RunnerFactory, StartError,
};
use polylora_hub::{Catalogue, HubConfig, ModelDir, Puller};
use polylora_kernels::device::{DTypeSpec, DeviceSpec, OpenDevice, built_in, is_cpu, open};
use polylora_kernels::{Pooling, kernel_cache, team};
use polylora_kernels_cpu::WeightFormat;
use polylora_models::EmbeddingModel;
use tokio::runtime::Handle;

use crate::fleet_duty::warm_up;
use crate::open_fleet::open_fleet;
use crate::settings::{DeviceChoice, DtypeChoice, ModeChoice, Settings};

/// Tokens in one forward pass on the CPU: more no longer make it faster, but their activations leave the caches, and
/// whoever comes next waits longer.
const CPU_BATCH_TOKENS: usize = 768;
/// But so many for each thread, where there are more threads than that leaves work for.
const CPU_BATCH_TOKENS_A_THREAD: usize = 128;
/// More threads than any machine has cores for them are a slip of the pen.
const MOST_THREADS: usize = 1024;

/// Each instance of a pool holds the whole model: more are a slip of the pen.
const MOST_INSTANCES: usize = 64;

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

/// An engine and what the server says about it.
pub struct Assembly {
    /// The engine.
    pub service: Arc<dyn EmbeddingService>,
    /// Further names of the base model from the catalogue, e.g. `sentence-transformers/all-MiniLM-L6-v2`.
    pub aliases: Vec<String>,
    /// Names of the adapters that were found and refused; each has a log line with its reason.
    pub refused_adapters: Vec<String>,
    /// The adapters, where they are the server's to manage.
    pub fleet: Option<Arc<Fleet>>,
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

/// Starts the engine that the settings ask for, and waits until a probe has gone through the device.
///
/// Chooses the device and dtype, resolves the model (pulling it where needed), loads the weights, checks every adapter of
/// `settings.adapters_dir` and of `extra` by config and headers, and starts the owner thread. With
/// `settings.strict_adapters` one refused adapter is an error; without, it is logged and counted.
///
/// Blocks for as long as that takes: it is called on a thread that may block, inside a tokio runtime.
///
/// # Errors
/// [`AssembleError`] with the step and the reason.
pub fn start_engine(settings: &Settings, extra: &[NamedAdapter]) -> Result<Assembly, AssembleError> {
    set_threads(settings)?;
    // Before the model: a device that cannot be used is no reason to fetch one.
    let device = open_device(settings)?;
    tracing::info!("{}", computing_on(&device));
    let (model_dir, aliases) = find_model(&settings.embedding_model)?;
    let step = format!("loading the model `{}`", settings.embedding_model);
    let model = EmbeddingModel::load(&model_dir.path, &device).map_err(AssembleError::at(step))?;
    let model = Arc::new(model);
    let info = describe(&model_dir, &model, &device);
    let counts_packed = device.weight_format().is_some_and(|format| format != WeightFormat::F32);
    let bases = vec![Base::new(info.name.clone(), Arc::clone(&model) as _)];
    let fleet = Arc::new(open_fleet(settings, extra, bases, counts_packed)?);
    let refused_adapters = fleet.refused().into_iter().map(|refused| refused.name).collect();
    let runners = runners(settings, &model, &device, &fleet)?;
    let engine = start(settings, info, model, Arc::clone(&fleet), runners)?;
    Handle::current().block_on(warm_up(&engine, &fleet, settings));
    Ok(Assembly { service: Arc::new(engine), aliases, refused_adapters, fleet: Some(fleet) })
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
pub(crate) fn find_model(name_or_dir: &str) -> Result<(ModelDir, Vec<String>), AssembleError> {
    let step = || format!("finding the model `{name_or_dir}`");
    let config = HubConfig::from_env().map_err(AssembleError::at(step()))?;
    let puller = Puller::new(Catalogue::builtin(), config);
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

/// A bound out of range under the name of its flag, where it has one.
fn by_flag(error: StartError) -> Box<dyn Error + Send + Sync> {
    const FLAGS: [&str; 4] =
        ["max_client_batch_size", "max_concurrent_requests", "max_batch_tokens", "max_input_chars"];
    match error {
        StartError::Config { field, found, min, max } if FLAGS.contains(&field) => {
            let flag = field.replace('_', "-");
            format!("--{flag} is {found}, it must be from {min} to {max}").into()
        }
        other => other.into(),
    }
}

fn describe(dir: &ModelDir, model: &EmbeddingModel, device: &OpenDevice) -> ModelInfo {
    ModelInfo {
        name: dir.name.clone(),
        root: dir.path.display().to_string(),
        digest: model.digest().to_hex(),
        dimensions: model.width(),
        max_tokens: model.max_tokens(),
        vocab_size: model.vocab_size(),
        dtype: device.dtype_name().to_owned(),
        device: device.name.clone(),
        prompts: model.settings().prompts.keys().cloned().collect(),
        pooling: pooling_name(model.settings().pooling).to_owned(),
    }
}

/// A way of pooling as text-embeddings-inference names it.
fn pooling_name(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::Mean => "mean",
        Pooling::Cls => "cls",
        Pooling::Max => "max",
        Pooling::LastToken => "last_token",
    }
}

/// What builds the runner of each instance: the first has the model that is there, the others load their own.
fn runners(
    settings: &Settings,
    model: &Arc<EmbeddingModel>,
    device: &OpenDevice,
    fleet: &Arc<Fleet>,
) -> Result<Vec<RunnerFactory>, AssembleError> {
    let instances = match settings.mode {
        ModeChoice::Pooled => settings.pool_size.get(),
        ModeChoice::Serial | ModeChoice::Batched => 1,
    };
    if instances > MOST_INSTANCES {
        let reason = format!("--pool-size is {instances}, it must be from 1 to {MOST_INSTANCES}");
        return Err(AssembleError::at("starting the instances")(reason));
    }
    let mode = settings.mode.with(settings.batching);
    tracing::info!("serving {mode}, {}", count(instances, "instance"));
    let room = LoraRoom { bytes: settings.lora_memory.bytes(), adapters: settings.max_loras };
    let factory = |index| {
        let mut own = (index == 0).then(|| Arc::clone(model));
        let (dir, device, fleet) = (model.dir().to_owned(), device.clone(), Arc::clone(fleet));
        let build = move || {
            let model = match &own {
                Some(model) => Arc::clone(model),
                None => {
                    let loaded = EmbeddingModel::load(&dir, &device).map(Arc::new);
                    Arc::clone(own.insert(loaded.map_err(|e| RunError::Start { reason: e.to_string() })?))
                }
            };
            let runner = EncoderRunner::new(model, room)?;
            fleet.watch_pool(runner.pool_monitor());
            Ok(Box::new(runner) as Box<dyn Runner>)
        };
        Box::new(build) as RunnerFactory
    };
    Ok((0..instances).map(factory).collect())
}

/// Starts the engine's threads and waits for the probe.
fn start(
    settings: &Settings,
    info: ModelInfo,
    model: Arc<EmbeddingModel>,
    fleet: Arc<Fleet>,
    runners: Vec<RunnerFactory>,
) -> Result<Engine, AssembleError> {
    let config = engine_config(settings, is_cpu(model.device()));
    let parts = EngineParts {
        model: info,
        tokenizer: Arc::new(model.tokenizer().clone()),
        prompts: model.settings().prompts.clone(),
        default_prompt: model.settings().default_prompt.clone(),
        adapters: fleet,
        runners,
        head: format!("{:?}, normalised: {}", model.settings().pooling, model.settings().normalize),
    };
    let engine =
        Engine::start(config, parts).map_err(by_flag).map_err(AssembleError::at("starting the engine"))?;
    Handle::current().block_on(engine.ready()).map_err(AssembleError::at("the first embedding"))?;
    Ok(engine)
}

/// The engine's bounds: what the settings say, and else what suits the device.
fn engine_config(settings: &Settings, on_cpu: bool) -> EngineConfig {
    let default = EngineConfig::default();
    let for_cpu = || CPU_BATCH_TOKENS.max(CPU_BATCH_TOKENS_A_THREAD * team::threads());
    let most_tokens = if on_cpu { for_cpu() } else { default.max_batch_tokens };
    EngineConfig {
        max_concurrent_requests: settings.max_concurrent_requests.get(),
        max_client_batch_size: settings.max_client_batch_size.get(),
        max_input_chars: settings.max_input_chars.get(),
        max_batch_tokens: settings.max_batch_tokens.map_or(most_tokens, NonZeroUsize::get),
        mode: settings.mode.with(settings.batching),
        tick: settings.tick_ms.duration(),
        embedding_cache_bytes: settings.embedding_cache_bytes.0,
        on_adapter_error: settings.on_adapter_error.0,
        warm_up: !settings.skip_warmup,
        ..default
    }
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
