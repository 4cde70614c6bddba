//! From settings to a running generation engine, beside the embedding engine or in its place.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;

use polylora_adapters::{Base, BaseModel, Fleet};
use polylora_engine::{
    AdapterFallbacks, AdaptersOf, CPU_STEP_TOKENS, CausalRunner, DeviceTurns, GenerationConfigs,
    GenerationEngine, GenerationParts, LlmInfo, LoraRoom, StepRunner,
};
use polylora_hub::{ModelDir, ModelUse};
use polylora_kernels::device::{OpenDevice, is_cpu};
use polylora_models::LanguageModel;
use tokio::runtime::Handle;

use crate::assemble::{AssembleError, find_model};
use crate::kv_budget::KvBudget;
use crate::model_names::chosen_for_llm;
use crate::settings::{ModeChoice, Settings};

/// Tokens in one step where the device is not the CPU.
const STEP_TOKENS: usize = 2048;

/// A language model that has been loaded, before its engine runs.
pub(crate) struct LoadedLlm {
    dir: ModelDir,
    aliases: Vec<String>,
    model: Arc<LanguageModel>,
}

impl LoadedLlm {
    /// Loads the model that `settings.llm` names, if any.
    ///
    /// # Errors
    /// When it cannot be found or loaded, or goes with no mode of the embedding engine.
    pub(crate) fn load(settings: &Settings, device: &OpenDevice) -> Result<Option<Self>, AssembleError> {
        let Some(name) = &settings.llm else { return Ok(None) };
        let step = || format!("loading the model `{name}`");
        if settings.mode == ModeChoice::Pooled && settings.embedding_model.0.is_some() {
            let reason =
                "--llm shares its device with one instance of the embedding model: not with --mode pooled";
            return Err(AssembleError::at(step())(reason));
        }
        let (dir, aliases) = find_model(name, ModelUse::Generation)?;
        let context = settings.max_model_len.map(NonZeroUsize::get);
        let model = LanguageModel::load(&dir.path, device, context).map_err(AssembleError::at(step()))?;
        Ok(Some(Self { dir, aliases, model: Arc::new(model) }))
    }

    /// As adapters see it.
    pub(crate) fn base(&self) -> Base {
        Base::new(self.dir.name.clone(), Arc::clone(&self.model) as _)
    }

    /// Starts its engine and waits until the device is set up; gives the catalogue's other names for the model, too.
    ///
    /// # Errors
    /// When there is not so much memory, or the engine does not start.
    pub(crate) fn start(
        self,
        settings: &Settings,
        device: &OpenDevice,
        fleet: &Arc<Fleet>,
        turns: Option<DeviceTurns>,
        fallbacks: AdapterFallbacks,
    ) -> Result<(GenerationEngine, Vec<String>), AssembleError> {
        let Self { dir, aliases, model } = self;
        let budget = KvBudget::of(settings, device).map_err(AssembleError::at("sizing the KV cache"))?;
        let configs = configs(settings, &model, budget)?;
        let max_model_len = served_context(settings, model.context(), &configs)?;
        let info = LlmInfo {
            name: dir.name.clone(),
            root: dir.path.display().to_string(),
            digest: model.digest().to_hex(),
            max_model_len,
            vocab_size: model.vocab_size(),
            dtype: device.dtype_name().to_owned(),
            device: device.name.clone(),
            has_chat_template: model.chat().is_some(),
        };
        let room = LoraRoom { bytes: settings.lora_memory.bytes(), adapters: settings.max_loras };
        let (own, watched) = (Arc::clone(&model), Arc::clone(fleet));
        let cache = (configs.blocks.get() as usize, configs.block_size.get());
        let runner = move || {
            let runner = CausalRunner::new(Arc::clone(&own), cache, room)?;
            watched.watch_pool(runner.pool_monitor());
            Ok(Box::new(runner) as Box<dyn StepRunner>)
        };
        tracing::info!(
            model = info.name,
            max_model_len = info.max_model_len,
            kv_blocks = configs.blocks,
            block_size = configs.block_size,
            "generating text"
        );
        let chosen = chosen_for_llm(&settings.served_model_name, settings.embedding_model.0.is_some());
        let parts = GenerationParts {
            metrics_label: chosen.first().unwrap_or(&info.name).clone(),
            info,
            adapters: Arc::new(AdaptersOf::new(Arc::clone(fleet), model.digest())),
            model,
            runner: Box::new(runner),
            turns,
            fallbacks,
        };
        let engine = GenerationEngine::start(configs, parts);
        let engine = engine.map_err(AssembleError::at("starting the generation engine"))?;
        let ready = Handle::current().block_on(engine.ready());
        ready.map_err(AssembleError::at("setting up the generation engine"))?;
        Ok((engine, aliases))
    }
}

/// Tokens that a text may have: what the model was made for or the operator says, but no more than the KV cache holds.
///
/// # Errors
/// When the operator asked for more than that.
fn served_context(
    settings: &Settings,
    context: usize,
    configs: &GenerationConfigs,
) -> Result<usize, AssembleError> {
    let held = (configs.blocks.get() as usize).saturating_mul(configs.block_size.get());
    if held >= context {
        return Ok(context);
    }
    if let Some(asked) = settings.max_model_len {
        let reason = format!(
            "--max-model-len {asked} is more than the {held} tokens that the KV cache holds: lower it, or give the cache \
             more memory (--kv-cache-memory-bytes)"
        );
        return Err(AssembleError::at("sizing the KV cache")(reason));
    }
    tracing::warn!(
        context,
        max_model_len = held,
        "the KV cache holds less than the model's context: texts are no longer than that (--kv-cache-memory-bytes for more)"
    );
    Ok(held)
}

/// The engine's bounds.
fn configs(
    settings: &Settings,
    model: &LanguageModel,
    budget: KvBudget,
) -> Result<GenerationConfigs, AssembleError> {
    let (block_size, bytes) = (settings.block_size, usize::try_from(budget.bytes).unwrap_or(usize::MAX));
    let a_block = model.bytes_per_block(block_size.get());
    // More blocks than every sequence can fill are of no use.
    let of_use = model.context().div_ceil(block_size.get()).saturating_mul(settings.max_num_seqs.get());
    // What nobody asked for is no more than a device's buffers hold.
    let most = if budget.is_asked { usize::MAX } else { model.most_blocks(block_size.get()) };
    let blocks = (bytes / a_block.max(1)).min(of_use).min(most);
    let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
    let blocks = NonZeroU32::new(blocks).ok_or_else(|| {
        let reason = format!(
            "{bytes} bytes are for keys and values (--kv-cache-memory-bytes, --gpu-memory-utilization), a block of \
             {block_size} tokens takes {a_block} (--block-size)"
        );
        AssembleError::at("sizing the KV cache")(reason)
    })?;
    let step_tokens = if is_cpu(model.device()) { CPU_STEP_TOKENS } else { STEP_TOKENS };
    let step_tokens = NonZeroUsize::new(step_tokens).unwrap_or(NonZeroUsize::MIN);
    Ok(GenerationConfigs {
        max_concurrent_requests: settings.max_concurrent_requests.get(),
        max_input_chars: settings.max_input_chars.get(),
        block_size,
        blocks,
        max_batch_tokens: settings.max_num_batched_tokens.unwrap_or(step_tokens),
        max_running: settings.max_num_seqs,
        most_adapters: settings.max_loras,
        prefix_caching: !settings.no_enable_prefix_caching,
        on_adapter_error: settings.on_adapter_error.0,
        // A CPU compiles nothing.
        warm_up: !settings.skip_warmup && !is_cpu(model.device()),
    })
}
