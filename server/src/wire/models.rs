//! `GET /v1/models` as vLLM shows it: the base model under each of its names, then the adapters with the base as parent.

use polylora_engine::AdapterInfo;
use serde::Serialize;
use utoipa::ToSchema;

use crate::embedder::Embedder;
use crate::llm::Llm;
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
#[derive(Clone, Copy)]
pub struct Models<'a> {
    /// What makes embeddings, where something does.
    pub embedder: Option<&'a Embedder>,
    /// What generates text, where something does.
    pub llm: Option<&'a Llm>,
    /// When the base models were loaded, seconds since the Unix epoch.
    pub created: u64,
}

/// What a base model's objects have in common with its adapters'.
struct Family<'a> {
    names: &'a ModelNames,
    root: &'a str,
    max_model_len: usize,
    dtype: &'a str,
    created: u64,
    adapters: Vec<AdapterInfo>,
}

impl<'a> Models<'a> {
    /// All of them: the names of a base, the leading one first, then its adapters in the engine's order; what embeds before what
    /// generates.
    pub fn list(self) -> ModelList {
        ModelList { object: "list", data: self.families().iter().flat_map(Family::objects).collect() }
    }

    /// The one of that name.
    pub fn find(self, name: &str) -> Option<ModelObject> {
        self.families().iter().flat_map(Family::objects).find(|object| object.id == name)
    }

    fn families(self) -> Vec<Family<'a>> {
        let embedding = self.embedder.map(|embedder| {
            let info = embedder.service().model();
            Family {
                names: embedder.names(),
                root: &info.root,
                max_model_len: info.max_tokens,
                dtype: &info.dtype,
                created: self.created,
                adapters: embedder.service().adapters(),
            }
        });
        let generating = self.llm.map(|llm| {
            let info = llm.service().model();
            Family {
                names: llm.names(),
                root: &info.root,
                max_model_len: info.max_model_len,
                dtype: &info.dtype,
                created: self.created,
                adapters: llm.service().adapters(),
            }
        });
        embedding.into_iter().chain(generating).collect()
    }
}

impl Family<'_> {
    fn objects(&self) -> impl Iterator<Item = ModelObject> {
        let base = |name: &str| self.object(name.to_owned(), self.root.to_owned(), self.created, None);
        let bases: Vec<_> = self.names.iter().map(base).collect();
        let adapter = |adapter: &AdapterInfo| {
            let parent = Some(self.names.primary().to_owned());
            self.object(adapter.name.clone(), adapter.root.clone(), adapter.created, parent)
        };
        bases.into_iter().chain(self.adapters.iter().map(adapter))
    }

    fn object(&self, id: String, root: String, created: u64, parent: Option<String>) -> ModelObject {
        ModelObject {
            id,
            object: "model",
            created,
            owned_by: "polylora",
            root,
            parent,
            max_model_len: self.max_model_len,
            dtype: self.dtype.to_owned(),
        }
    }
}
