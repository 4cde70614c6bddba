//! `GET /v1/models` as vLLM shows it: the base model under each of its names, then the adapters with the base as parent.

use polylora_engine::{AdapterInfo, ModelInfo};
use serde::Serialize;
use utoipa::ToSchema;

use crate::state::ModelNames;

/// A list of models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ModelObject {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: String,
    #[schema(required)]
    parent: Option<String>,
    max_model_len: usize,
    dtype: String,
}

/// What the server knows of its models when it is asked.
#[derive(Clone, Debug)]
pub struct Models<'a> {
    /// The base model.
    pub base: &'a ModelInfo,
    /// Its names.
    pub names: &'a ModelNames,
    /// The served adapters.
    pub adapters: Vec<AdapterInfo>,
    /// When the base model was loaded, seconds since the Unix epoch.
    pub created: u64,
}

impl Models<'_> {
    /// All of them: the base's names, the leading one first, then the adapters in the engine's order.
    pub fn list(self) -> ModelList {
        let bases = self.names.iter().map(|name| self.base_object(name));
        let adapters = self.adapters.iter().map(|adapter| self.adapter_object(adapter));
        ModelList { object: "list", data: bases.chain(adapters).collect() }
    }

    /// The one of that name.
    pub fn find(self, name: &str) -> Option<ModelObject> {
        if self.names.iter().any(|known| known == name) {
            return Some(self.base_object(name));
        }
        self.adapters.iter().find(|adapter| adapter.name == name).map(|adapter| self.adapter_object(adapter))
    }

    fn base_object(&self, name: &str) -> ModelObject {
        ModelObject {
            id: name.to_owned(),
            object: "model",
            created: self.created,
            owned_by: "polylora",
            root: self.base.root.clone(),
            parent: None,
            max_model_len: self.base.max_tokens,
            dtype: self.base.dtype.clone(),
        }
    }

    fn adapter_object(&self, adapter: &AdapterInfo) -> ModelObject {
        ModelObject {
            id: adapter.name.clone(),
            object: "model",
            created: adapter.created,
            owned_by: "polylora",
            root: adapter.root.clone(),
            parent: Some(self.names.primary().to_owned()),
            max_model_len: self.base.max_tokens,
            dtype: self.base.dtype.clone(),
        }
    }
}
