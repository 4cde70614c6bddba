//! The bodies of text-embeddings-inference's endpoints for embeddings, with three ways to name an adapter beside the path:
//! `model` as OpenAI has it, `adapter_id` as LoRAX has it, `lora_name` as vLLM has it.
//!
//! A field that is `null` counts as left out; fields that are not listed here are ignored.

use axum::http::StatusCode;
use polylora_engine::{EmbedInput, EmbedRequest, RowOutput};
use serde::Deserialize;
use utoipa::ToSchema;

use super::adapter_choice::agreed_adapter;
use super::error::ApiError;
use super::fields::{Dimensions, Direction, Object};
use super::input::Inputs;
use super::openai::ReadingRules;
use crate::api_doc::{ModelName, PromptName, Sentences, Text};

/// The body of `POST /embed`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct EmbedBody {
    /// What to embed.
    #[schema(value_type = Inputs)]
    pub(crate) inputs: Option<Inputs>,
    /// Whether inputs above the model's limit are cut; left out, the server's setting.
    truncate: Option<bool>,
    /// Which end is cut off: "right" where left out.
    truncation_direction: Option<Direction>,
    /// Whether embeddings have L2 norm 1: `true` where left out.
    #[schema(default = true)]
    normalize: Option<bool>,
    /// Width to cut embeddings to.
    dimensions: Option<Dimensions>,
    /// Prompt of the model that goes in front of each text.
    #[schema(value_type = Option<PromptName>)]
    prompt_name: Option<String>,
    /// Base model, alias or adapter.
    #[schema(value_type = Option<ModelName>)]
    model: Option<String>,
    /// Adapter.
    #[schema(value_type = Option<ModelName>)]
    adapter_id: Option<String>,
    /// Adapter.
    #[schema(value_type = Option<ModelName>)]
    lora_name: Option<String>,
}

/// The body of `POST /embed_all`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct EmbedAllBody {
    /// What to embed, token by token.
    #[schema(value_type = Inputs)]
    pub(crate) inputs: Option<Inputs>,
    /// Whether inputs above the model's limit are cut; left out, the server's setting.
    truncate: Option<bool>,
    /// Which end is cut off: "right" where left out.
    truncation_direction: Option<Direction>,
    /// Prompt of the model that goes in front of each text.
    #[schema(value_type = Option<PromptName>)]
    prompt_name: Option<String>,
    /// Base model, alias or adapter.
    #[schema(value_type = Option<ModelName>)]
    model: Option<String>,
    /// Adapter.
    #[schema(value_type = Option<ModelName>)]
    adapter_id: Option<String>,
    /// Adapter.
    #[schema(value_type = Option<ModelName>)]
    lora_name: Option<String>,
}

/// The body of `POST /similarity`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct SimilarityBody {
    /// What to compare.
    #[schema(value_type = SimilarityInputs)]
    inputs: Option<Object<SimilarityInputs>>,
    /// How it is embedded.
    #[schema(value_type = Option<SimilarityParameters>)]
    parameters: Option<Object<SimilarityParameters>>,
    /// Base model, alias or adapter.
    #[schema(value_type = Option<ModelName>)]
    model: Option<String>,
    /// Adapter.
    #[schema(value_type = Option<ModelName>)]
    adapter_id: Option<String>,
    /// Adapter.
    #[schema(value_type = Option<ModelName>)]
    lora_name: Option<String>,
}

/// A sentence and those that it is compared with.
#[derive(Debug, Deserialize, ToSchema)]
pub struct SimilarityInputs {
    /// The one.
    #[schema(value_type = Text)]
    source_sentence: String,
    /// The others.
    #[schema(value_type = Sentences)]
    sentences: Vec<String>,
}

/// How the sentences are embedded.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct SimilarityParameters {
    /// Whether sentences above the model's limit are cut; left out, the server's setting.
    truncate: Option<bool>,
    /// Which end is cut off: "right" where left out.
    truncation_direction: Option<Direction>,
    /// Prompt of the model that goes in front of each sentence.
    #[schema(value_type = Option<PromptName>)]
    prompt_name: Option<String>,
}

/// A request in the engine's terms, and the name that it asked for.
#[derive(Clone, Debug)]
pub struct TeiRequest {
    /// For the engine.
    pub engine: EmbedRequest,
    /// The name that was asked for, for the log.
    pub model: String,
}

/// What the body and the path say of the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    pub(crate) path: Option<&'a str>,
    pub(crate) model: Option<&'a str>,
    pub(crate) adapter_id: Option<&'a str>,
    pub(crate) lora_name: Option<&'a str>,
}

/// The adapter that a request means, and the name it asked for.
pub(crate) struct ChosenModel {
    pub(crate) adapter: Option<String>,
    pub(crate) name: String,
}

impl Named<'_> {
    /// # Errors
    /// 400 for two different adapters; a name that nothing can have is not found.
    pub(crate) fn choose(self, rules: ReadingRules<'_>) -> Result<ChosenModel, ApiError> {
        let is_adapter = |name: &&str| rules.names.resolve(name).adapter().is_some();
        let (adapter, _) = agreed_adapter(&[
            ("the path", self.path.filter(is_adapter)),
            ("model", self.model.filter(is_adapter)),
            ("adapter_id", self.adapter_id.filter(is_adapter)),
            ("lora_name", self.lora_name.filter(is_adapter)),
        ])?;
        let adapter = adapter.map(str::to_owned);
        let asked = adapter.as_deref().or(self.model).or(self.path).or(self.adapter_id).or(self.lora_name);
        let name = asked.unwrap_or_else(|| rules.names.primary()).to_owned();
        Ok(ChosenModel { adapter, name })
    }
}

impl EmbedBody {
    /// Reads the request in the engine's terms; `path` is the model that the path names.
    ///
    /// # Errors
    /// Missing `inputs`, fields that disagree about the adapter.
    pub fn read(self, path: Option<&str>, rules: ReadingRules<'_>) -> Result<TeiRequest, ApiError> {
        let (model, adapter_id) = (self.model.as_deref(), self.adapter_id.as_deref());
        let named = Named { path, model, adapter_id, lora_name: self.lora_name.as_deref() };
        let ChosenModel { adapter, name } = named.choose(rules)?;
        let engine = EmbedRequest {
            inputs: needed(self.inputs, "inputs")?.0,
            adapter,
            split_key: None,
            prompt_name: self.prompt_name,
            dimensions: self.dimensions.map(|Dimensions(width)| width),
            truncate: self.truncate.unwrap_or(rules.auto_truncate),
            truncation_side: self.truncation_direction.unwrap_or_default().0,
            output: if self.normalize.unwrap_or(true) { RowOutput::Normalized } else { RowOutput::Raw },
        };
        Ok(TeiRequest { engine, model: name })
    }
}

impl EmbedAllBody {
    /// As [`EmbedBody::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(self, path: Option<&str>, rules: ReadingRules<'_>) -> Result<TeiRequest, ApiError> {
        let Self { inputs, truncate, truncation_direction, prompt_name, model, adapter_id, lora_name } = self;
        let whole = EmbedBody {
            inputs,
            truncate,
            truncation_direction,
            normalize: None,
            dimensions: None,
            prompt_name,
            model,
            adapter_id,
            lora_name,
        };
        let mut request = whole.read(path, rules)?;
        request.engine.output = RowOutput::Tokens;
        Ok(request)
    }
}

impl SimilarityBody {
    /// As [`EmbedBody::read`]: the source sentence is the first input, and every embedding has L2 norm 1.
    ///
    /// # Errors
    /// As there, and no sentences.
    pub fn read(self, path: Option<&str>, rules: ReadingRules<'_>) -> Result<TeiRequest, ApiError> {
        let SimilarityInputs { source_sentence, sentences } = needed(self.inputs, "inputs")?.0;
        if sentences.is_empty() {
            let message = "`inputs.sentences` is empty: there is nothing to compare with";
            return Err(
                ApiError::invalid(StatusCode::BAD_REQUEST, "no_inputs", message).naming("inputs.sentences")
            );
        }
        let parameters = self.parameters.map(|Object(parameters)| parameters).unwrap_or_default();
        let SimilarityParameters { truncate, truncation_direction, prompt_name } = parameters;
        let texts = std::iter::once(source_sentence).chain(sentences);
        let whole = EmbedBody {
            inputs: Some(Inputs(texts.map(EmbedInput::Text).collect())),
            truncate,
            truncation_direction,
            normalize: None,
            dimensions: None,
            prompt_name,
            model: self.model,
            adapter_id: self.adapter_id,
            lora_name: self.lora_name,
        };
        whole.read(path, rules)
    }
}

/// The value of a field that must be there.
pub(crate) fn needed<T>(field: Option<T>, name: &'static str) -> Result<T, ApiError> {
    field.ok_or_else(|| {
        let message = format!("the field `{name}` is missing");
        ApiError::invalid(StatusCode::UNPROCESSABLE_ENTITY, "missing_required_parameter", message)
            .naming(name)
    })
}

/// The cosine of the angle between the first of some vectors of L2 norm 1 and each of the others.
pub fn similarities(embeddings: &[Vec<f32>]) -> Vec<f32> {
    let Some((source, others)) = embeddings.split_first() else { return Vec::new() };
    let cosine = |other: &Vec<f32>| {
        let products = source.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum::<f64>().clamp(-1.0, 1.0) as f32
    };
    others.iter().map(cosine).collect()
}
