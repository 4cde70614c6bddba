//! The base model that generates text, where one is served beside the embedding model or in its place.

use std::sync::Arc;

use polylora_engine::GenerationService;

use crate::model_names::{ModelNames, NameClash};

/// An engine that generates, and the names of its base model.
pub struct Llm {
    service: Arc<dyn GenerationService>,
    names: ModelNames,
}

impl Llm {
    /// The engine under the names that the user chose, its model's own and the catalogue's others. A name of an adapter, served or
    /// `refused`, never stands for the base model.
    ///
    /// # Errors
    /// [`NameClash`] when an adapter could not be told from the base model.
    pub fn new(
        service: Arc<dyn GenerationService>,
        chosen: &[String],
        aliases: &[String],
        refused: &[String],
    ) -> Result<Self, NameClash> {
        let served = service.adapters().into_iter().map(|adapter| adapter.name);
        let adapters: Vec<String> = served.chain(refused.iter().cloned()).collect();
        let names = ModelNames::new(chosen, &service.model().name, aliases).yielding_to(&adapters)?;
        Ok(Self { service, names })
    }

    /// The engine.
    pub fn service(&self) -> &Arc<dyn GenerationService> {
        &self.service
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
}
