//! From settings to a running embedding engine.

use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;

use polylora_adapters::{Base, BaseModel, Fleet};
use polylora_engine::{
    AdaptersOf, DeviceTurns, EncoderRunner, Engine, EngineConfig, EngineParts, LoraRoom, ModelInfo, RunError,
    Runner, RunnerFactory, StartError,
};
use polylora_hub::{ModelDir, ModelUse};
use polylora_kernels::device::{OpenDevice, is_cpu};
use polylora_kernels::{Pooling, team};
use polylora_models::EmbeddingModel;
use tokio::runtime::Handle;

use crate::assemble::{AssembleError, count, find_model};
use crate::settings::{ModeChoice, Settings};

/// Tokens in one forward pass on the CPU: more no longer make it faster, but their activations leave the caches, and
/// whoever comes next waits longer.
const CPU_BATCH_TOKENS: usize = 768;
/// But so many for each thread, where there are more threads than that leaves work for.
const CPU_BATCH_TOKENS_A_THREAD: usize = 128;
/// Each instance of a pool holds the whole model: more are a slip of the pen.
const MOST_INSTANCES: usize = 64;

/// An embedding model that has been loaded, before its engine runs.
pub(crate) struct LoadedEncoder {
    dir: ModelDir,
    aliases: Vec<String>,
    model: Arc<EmbeddingModel>,
}

impl LoadedEncoder {
    /// Loads the model that `settings.embedding_model` names, if any.
    ///
    /// # Errors
    /// When it cannot be found or loaded.
    pub(crate) fn load(settings: &Settings, device: &OpenDevice) -> Result<Option<Self>, AssembleError> {
        let Some(name) = &settings.embedding_model.0 else { return Ok(None) };
        let (dir, aliases) = find_model(name, ModelUse::Embedding)?;
        let step = format!("loading the model `{name}`");
        let model = EmbeddingModel::load(&dir.path, device).map_err(AssembleError::at(step))?;
        Ok(Some(Self { dir, aliases, model: Arc::new(model) }))
    }

    /// As adapters see it.
    pub(crate) fn base(&self) -> Base {
        Base::new(self.dir.name.clone(), Arc::clone(&self.model) as _)
    }

    /// Starts its engine and waits for the probe; gives the catalogue's other names for the model, too.
    ///
    /// # Errors
    /// When a bound is out of range, or the engine does not start.
    pub(crate) fn start(
        self,
        settings: &Settings,
        device: &OpenDevice,
        fleet: &Arc<Fleet>,
        turns: Option<DeviceTurns>,
    ) -> Result<(Engine, Vec<String>), AssembleError> {
        let Self { dir, aliases, model } = self;
        let info = describe(&dir, &model, device);
        let runners = runners(settings, &model, device, fleet)?;
        let engine = start(settings, info, model, Arc::clone(fleet), runners, turns)?;
        Ok((engine, aliases))
    }
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
    turns: Option<DeviceTurns>,
) -> Result<Engine, AssembleError> {
    let config = engine_config(settings, is_cpu(model.device()));
    let served_name = settings.served_model_name.first().unwrap_or(&info.name);
    let parts = EngineParts {
        metrics_label: served_name.clone(),
        model: info,
        tokenizer: Arc::new(model.tokenizer().clone()),
        prompts: model.settings().prompts.clone(),
        default_prompt: model.settings().default_prompt.clone(),
        adapters: Arc::new(AdaptersOf::new(fleet, model.digest())),
        runners,
        turns,
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
