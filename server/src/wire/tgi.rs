//! The bodies of text-generation-inference's `/generate`, with LoRAX's `adapter_id`.

use polylora_engine::{GenerateRequest, Prompt, SamplingRequest};
use serde::Deserialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::fields::Object;
use super::generate_error::FieldNames;
use super::generation_fields::{invalid, refuse_unsupported};
use super::generation_values::{StopTexts, Unsupported};
use super::llm_choice::{ChosenLlm, LlmRules};
use super::numbers::{Count, Integer, Number};
use crate::api_doc::ModelName;

/// What the field with the adapter is called.
const ADAPTER_ID: &str = "parameters.adapter_id";

/// The body.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct GenerateBody {
    /// The text to continue.
    #[schema(value_type = PromptText)]
    inputs: Option<String>,
    /// How.
    #[schema(value_type = Option<GenerateParameters>)]
    parameters: Option<Object<GenerateParameters>>,
    /// At `/` only: whether the reply comes in pieces.
    stream: Option<bool>,
}

/// Stands for a text that is continued.
pub struct PromptText;

/// How a text is continued. Without `do_sample`, `temperature`, `top_k` and `top_p` the likeliest tokens are taken.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct GenerateParameters {
    /// The adapter, or a name of the base model.
    #[schema(value_type = Option<ModelName>)]
    adapter_id: Option<String>,
    /// Tokens to generate at most; left out, what the context leaves.
    #[schema(value_type = Option<usize>, minimum = 1)]
    max_new_tokens: Option<Count>,
    /// Whether tokens are drawn.
    do_sample: Option<bool>,
    /// What logits are divided by.
    #[schema(value_type = Option<f32>, minimum = 0)]
    temperature: Option<Number>,
    /// Tokens that are drawn from.
    #[schema(value_type = Option<i64>, minimum = -1)]
    top_k: Option<Integer>,
    /// Probability mass that is drawn from.
    #[schema(value_type = Option<f32>, exclusive_minimum = 0, maximum = 1)]
    top_p: Option<Number>,
    /// Above 1 it makes tokens of prompt and output less likely.
    #[schema(value_type = Option<f32>, exclusive_minimum = 0)]
    repetition_penalty: Option<Number>,
    /// Taken from the logits of tokens in the output, once for each time.
    #[schema(value_type = Option<f32>, minimum = -2, maximum = 2)]
    frequency_penalty: Option<Number>,
    /// The same seed gives the same tokens.
    #[schema(value_type = Option<u64>)]
    seed: Option<Count>,
    /// Texts that end it; they are part of the text.
    #[schema(value_type = Option<Vec<String>>)]
    stop: Option<StopTexts>,
    /// Whether the model's own end of text ends nothing.
    ignore_eos_token: Option<bool>,
    /// Whether the text to continue comes first in the reply.
    return_full_text: Option<bool>,
    /// Whether the reply tells of its tokens.
    details: Option<bool>,
    /// Whether it tells of the prompt's tokens as well; with `details`, not in pieces.
    decoder_input_details: Option<bool>,
    /// So many of the likeliest tokens in each place.
    #[schema(value_type = Option<usize>, minimum = 0, maximum = 20)]
    top_n_tokens: Option<Count>,
    /// The same in LoRAX's words.
    #[schema(value_type = Option<usize>, minimum = 0, maximum = 20)]
    return_k_alternatives: Option<Count>,
    /// Only 1.
    #[schema(value_type = Option<usize>, minimum = 1, maximum = 1)]
    best_of: Option<Count>,
    #[schema(ignore)]
    truncate: Option<Unsupported>,
    #[schema(ignore)]
    watermark: Option<Unsupported>,
    #[schema(ignore)]
    grammar: Option<Unsupported>,
    #[schema(ignore)]
    response_format: Option<Unsupported>,
    #[schema(ignore)]
    merged_adapters: Option<Unsupported>,
    #[schema(ignore)]
    apply_chat_template: Option<Unsupported>,
    #[schema(ignore)]
    typical_p: Option<Number>,
}

/// A request in the engine's terms, and what the reply needs to know of it.
#[derive(Clone, Debug)]
pub struct ReadGenerate {
    /// For the engine.
    pub request: GenerateRequest,
    /// The model.
    pub chosen: ChosenLlm,
    /// How its errors name the fields.
    pub names: FieldNames,
    /// What the reply tells.
    pub form: GenerateForm,
    /// Whether the body asks for pieces.
    pub stream: bool,
}

/// What a reply tells beside the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GenerateForm {
    /// Its tokens.
    pub details: bool,
    /// The prompt's tokens.
    pub prefill: bool,
    /// The likeliest tokens in each place.
    pub top_tokens: bool,
    /// The same with each token.
    pub alternatives: bool,
    /// The text that is continued.
    pub full_text: bool,
    /// The seed that was asked for.
    pub seed: Option<u64>,
}

impl GenerateBody {
    /// Reads the request.
    ///
    /// # Errors
    /// 400 for a missing text and for what cannot be done; the model's as [`LlmRules::choose`].
    pub fn read(self, rules: LlmRules<'_>) -> Result<ReadGenerate, ApiError> {
        let inputs = self.inputs.ok_or_else(|| {
            ApiError::missing("the field `inputs` is missing: send the text to continue").naming("inputs")
        })?;
        let parameters = self.parameters.map(|Object(parameters)| parameters).unwrap_or_default();
        parameters.check()?;
        let adapter_id = parameters.adapter_id.as_deref().filter(|name| !name.is_empty());
        let is_adapter = adapter_id.is_some_and(|name| rules.llm.resolve(name).adapter().is_some());
        let mut chosen = match adapter_id {
            Some(name) if is_adapter => rules.choose(None, &[(ADAPTER_ID, Some(name))])?,
            base => rules.choose(base, &[])?,
        };
        chosen.named_by = ADAPTER_ID;
        let flag = |field: Option<bool>| field.unwrap_or(false);
        let form = GenerateForm {
            details: flag(parameters.details),
            prefill: flag(parameters.details) && flag(parameters.decoder_input_details),
            top_tokens: parameters.top_n_tokens.is_some_and(|Count(most)| most > 0),
            alternatives: parameters.return_k_alternatives.is_some_and(|Count(most)| most > 0),
            full_text: flag(parameters.return_full_text),
            seed: parameters.seed.map(|Count(seed)| seed as u64),
        };
        let request = GenerateRequest {
            prompt: Prompt::Text(inputs),
            add_special_tokens: true,
            adapter: chosen.adapter.clone(),
            split_key: None,
            copies: 1,
            echo: form.full_text,
            sampling: parameters.sampling(form.prefill),
            cache_salt: None,
        };
        let names = FieldNames {
            prompt: "inputs",
            is_list: false,
            model: ADAPTER_ID,
            logprobs: "parameters.top_n_tokens",
        };
        Ok(ReadGenerate { request, chosen, names, form, stream: flag(self.stream) })
    }
}

impl GenerateParameters {
    fn check(&self) -> Result<(), ApiError> {
        refuse_unsupported(&[
            ("parameters.truncate", self.truncate),
            ("parameters.watermark", self.watermark),
            ("parameters.grammar", self.grammar),
            ("parameters.response_format", self.response_format),
            ("parameters.merged_adapters", self.merged_adapters),
            ("parameters.apply_chat_template", self.apply_chat_template),
        ])?;
        // 1 keeps every token.
        if self.typical_p.is_some_and(|Number(mass)| mass != 1.0) {
            let message = "`parameters.typical_p` is not supported yet: leave it out".to_owned();
            return Err(invalid("parameters.typical_p", message));
        }
        if let Some(Count(best_of)) = self.best_of.filter(|&Count(best_of)| best_of != 1) {
            let message = format!("`parameters.best_of` is {best_of}: texts are not ranked, leave it out");
            return Err(invalid("parameters.best_of", message));
        }
        if self.max_new_tokens == Some(Count(0)) {
            let message = "`parameters.max_new_tokens` is 0: ask for at least one token".to_owned();
            return Err(invalid("parameters.max_new_tokens", message));
        }
        Ok(())
    }

    /// What is left out has text-generation-inference's default, whatever the model's own would be.
    fn sampling(self, prefill: bool) -> SamplingRequest {
        let number = |field: Option<Number>| field.map(|Number(number)| number);
        let draws = self.do_sample.unwrap_or(false)
            || self.temperature.is_some()
            || self.top_k.is_some()
            || self.top_p.is_some();
        let most = |field: Option<Count>| field.map_or(0, |Count(most)| most);
        SamplingRequest {
            temperature: Some(if draws { number(self.temperature).unwrap_or(1.0) } else { 0.0 }),
            top_p: Some(number(self.top_p).unwrap_or(1.0)),
            top_k: Some(self.top_k.map_or(0, |Integer(tokens)| tokens)),
            min_p: Some(0.0),
            repetition_penalty: Some(number(self.repetition_penalty).unwrap_or(1.0)),
            presence_penalty: Some(0.0),
            frequency_penalty: Some(number(self.frequency_penalty).unwrap_or(0.0)),
            // A number of 64 bits, whatever its sign.
            seed: self.seed.map(|Count(seed)| seed as i64),
            max_tokens: self.max_new_tokens.map(|Count(tokens)| tokens),
            stop: self.stop.unwrap_or_default().0,
            ignore_eos: self.ignore_eos_token.unwrap_or(false),
            include_stop_str_in_output: true,
            skip_special_tokens: true,
            logprobs: Some(most(self.top_n_tokens).max(most(self.return_k_alternatives))),
            prompt_logprobs: prefill.then_some(0),
            ..SamplingRequest::default()
        }
    }
}
