//! The base model that makes embeddings, where one is served beside the language model or in its place.

use std::sync::Arc;

use polylora_engine::EmbeddingService;

use crate::model_names::{ModelNames, NameClash};
use crate::wire::openai::ReadingRules;

/// An engine that makes embeddings, and the names of its base model.
pub struct Embedder {
    service: Arc<dyn EmbeddingService>,
    names: ModelNames,
    auto_truncate: bool,
}

impl Embedder {
    /// The engine under `names`; long inputs are cut where a request does not say and `auto_truncate` does.
    pub fn new(service: Arc<dyn EmbeddingService>, names: ModelNames, auto_truncate: bool) -> Self {
        Self { service, names, auto_truncate }
    }

    /// The names of `service`'s base model: those that the user chose, its own, and the catalogue's. A name of an adapter, served
    /// or `refused`, never stands for the base model.
    ///
    /// # Errors
    /// [`NameClash`] when an adapter could not be told from the base model.
    pub fn names_of(
        service: &dyn EmbeddingService,
        chosen: &[String],
        aliases: &[String],
        refused: &[String],
    ) -> Result<ModelNames, NameClash> {
        let served = service.adapters().into_iter().map(|adapter| adapter.name);
        let adapters: Vec<String> = served.chain(refused.iter().cloned()).collect();
        ModelNames::new(chosen, &service.model().name, aliases).yielding_to(&adapters)
    }

    /// The engine.
    pub fn service(&self) -> &dyn EmbeddingService {
        self.service.as_ref()
    }

    /// The names of its base model.
    pub fn names(&self) -> &ModelNames {
        &self.names
    }

    /// Whether a name is the base model's or an adapter's.
    pub fn serves(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
            || self.service.adapters().iter().any(|adapter| adapter.name == name)
    }

    /// How requests to it are read.
    pub fn rules(&self) -> ReadingRules<'_> {
        ReadingRules {
            names: &self.names,
            auto_truncate: self.auto_truncate,
            max_tokens: self.service.model().max_tokens,
        }
    }
}
