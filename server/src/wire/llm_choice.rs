//! Which model a generation request means.

use axum::http::StatusCode;

use super::adapter_choice::agreed_adapter;
use super::error::ApiError;
use crate::state::ModelNames;

/// The names that a generation request may have in `model`.
#[derive(Clone, Copy, Debug)]
pub struct LlmRules<'a> {
    /// Those of the base model that generates.
    pub llm: &'a ModelNames,
    /// Those of the embedding model, which generates nothing; `None` where there is none.
    pub embedding: Option<&'a ModelNames>,
}

/// What a request means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenLlm {
    /// The adapter; `None` for the base model.
    pub adapter: Option<String>,
    /// The name that the reply repeats.
    pub name: String,
    /// The field that named it, for errors.
    pub named_by: &'static str,
}

impl LlmRules<'_> {
    /// The model that `model` names together with the fields that name an adapter.
    ///
    /// # Errors
    /// 400 for the embedding model and for fields that disagree; 404 for a name that nothing can have.
    pub fn choose(
        self,
        model: Option<&str>,
        adapters: &[(&'static str, Option<&str>)],
    ) -> Result<ChosenLlm, ApiError> {
        let adapter_of_model = match model {
            Some(name) => {
                let adapter = self.llm.resolve(name).adapter();
                let embeds = |names: &ModelNames| names.iter().any(|known| known == name);
                if adapter.is_some() && self.embedding.is_some_and(embeds) {
                    return Err(generates_nothing(name, self.llm.primary()).naming("model"));
                }
                adapter
            }
            None => None,
        };
        let mut fields = vec![("model", adapter_of_model)];
        fields.extend_from_slice(adapters);
        let (adapter, named_by) = agreed_adapter(&fields)?;
        let name = model.or(adapter).unwrap_or_else(|| self.llm.primary()).to_owned();
        Ok(ChosenLlm { adapter: adapter.map(str::to_owned), name, named_by })
    }
}

/// 400: `name` is the embedding model's or one of its adapters.
pub fn generates_nothing(name: &str, llm: &str) -> ApiError {
    let message = format!(
        "`{name:.100}` makes embeddings and generates no text: ask `{llm}` or one of its adapters; GET /v1/models lists them"
    );
    ApiError::invalid(StatusCode::BAD_REQUEST, "model_not_supported", message)
}

/// 400: there is nothing that generates.
pub fn no_llm() -> ApiError {
    let message =
        "this server has no model that generates text (--llm): it makes embeddings, POST /v1/embeddings";
    ApiError::invalid(StatusCode::BAD_REQUEST, "model_not_supported", message).naming("model")
}

/// 400: there is nothing that makes embeddings, but `llm` generates.
pub fn no_embedding_model(llm: &str) -> ApiError {
    let message = format!(
        "this server has no model that makes embeddings (--embedding-model): ask `{llm}` or one of its adapters for text, \
         POST /v1/chat/completions or /v1/completions"
    );
    ApiError::invalid(StatusCode::BAD_REQUEST, "model_not_supported", message).naming("model")
}

/// 400: `name` is the LLM's or one of its adapters.
pub fn embeds_nothing(name: &str, embedding: &str) -> ApiError {
    let message = format!(
        "`{name:.100}` generates text and makes no embeddings: ask `{embedding}` or one of its adapters; \
         GET /v1/models lists them"
    );
    ApiError::invalid(StatusCode::BAD_REQUEST, "model_not_supported", message)
}
