//! What a model is for: the two flags of the server that name one.

use std::fmt;

use serde::Deserialize;

/// What a model is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelUse {
    /// It makes embeddings (`--embedding-model`).
    #[default]
    Embedding,
    /// It generates text (`--llm`).
    Generation,
}

impl ModelUse {
    /// The flag that takes such a model.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Embedding => "--embedding-model",
            Self::Generation => "--llm",
        }
    }
}

impl fmt::Display for ModelUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedding => "makes embeddings",
            Self::Generation => "generates text",
        })
    }
}
