//! From settings to a running engine: device, model, adapters. The only place that knows all of them.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use polylora_engine::EmbeddingService;

use crate::settings::Settings;

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
    /// Adapters that were found and refused; each has a log line with its reason.
    pub refused_adapters: usize,
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
/// Resolves the model (pulling it where needed), chooses the device and dtype, loads the weights, checks every adapter of
/// `settings.adapters_dir` and of `extra` by config and headers, and starts the owner thread. With
/// `settings.strict_adapters` one refused adapter is an error; without, it is logged and counted.
///
/// Blocks for as long as that takes: it is called on a thread that may block, inside a tokio runtime.
///
/// # Errors
/// [`AssembleError`] with the step and the reason.
pub fn start_engine(settings: &Settings, extra: &[NamedAdapter]) -> Result<Assembly, AssembleError> {
    let _ = extra;
    let step = format!("loading the model `{}`", settings.embedding_model);
    Err(AssembleError::at(step)("this build has no engine behind its server"))
}
