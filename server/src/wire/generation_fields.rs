//! The fields that completions and conversations have in common: OpenAI's, and vLLM's beside them.
//!
//! As with embeddings, fields that are not listed are ignored, and what would change the result and cannot be done is refused.

use axum::http::StatusCode;
use polylora_engine::{
    MAX_LOGIT_BIASES, MAX_STOP_BYTES, MAX_STOP_STRINGS, MAX_STOP_TOKEN_IDS, SamplingRequest, TemplateValue,
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::ApiError;
use super::fields::{LoraRequest, Object};
use super::generation_values::{LogitBias, StopTexts, Unsupported};
use super::input::TokenIds;
use super::llm_choice::{ChosenLlm, LlmRules};
use super::numbers::{Count, Integer, Number};
use crate::api_doc::ModelName;

/// Fields of a request. A field that is `null` counts as left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct GenerationFields {
    /// Base model, alias or adapter; left out, the base model.
    #[schema(value_type = Option<ModelName>)]
    model: Option<String>,
    /// Adapter, beside a `model` that is the base or the same adapter.
    #[schema(value_type = Option<ModelName>)]
    lora_name: Option<String>,
    /// Adapter, in vLLM's object.
    lora_request: Option<LoraRequest>,
    /// Copies of each prompt.
    #[schema(value_type = Option<usize>, minimum = 1)]
    n: Option<Count>,
    /// What logits are divided by; 0 takes the most likely token.
    #[schema(value_type = Option<f32>, minimum = 0)]
    temperature: Option<Number>,
    /// Probability mass that is drawn from.
    #[schema(value_type = Option<f32>, exclusive_minimum = 0, maximum = 1)]
    top_p: Option<Number>,
    /// Tokens that are drawn from; 0 and -1 are all of them.
    #[schema(value_type = Option<i64>, minimum = -1)]
    top_k: Option<Integer>,
    /// Probability, relative to the highest, below which no token is drawn.
    #[schema(value_type = Option<f32>, minimum = 0, maximum = 1)]
    min_p: Option<Number>,
    /// Above 1 it makes tokens of prompt and output less likely.
    #[schema(value_type = Option<f32>, exclusive_minimum = 0)]
    repetition_penalty: Option<Number>,
    /// Taken from the logits of tokens in the output.
    #[schema(value_type = Option<f32>, minimum = -2, maximum = 2)]
    presence_penalty: Option<Number>,
    /// Taken from the logits of tokens in the output, once for each time.
    #[schema(value_type = Option<f32>, minimum = -2, maximum = 2)]
    frequency_penalty: Option<Number>,
    /// Added to the logits of token ids.
    logit_bias: Option<LogitBias>,
    /// The same seed gives the same tokens.
    #[schema(value_type = Option<i64>)]
    seed: Option<Integer>,
    /// Tokens before which nothing ends it.
    #[schema(value_type = Option<usize>, minimum = 0)]
    min_tokens: Option<Count>,
    /// Texts that end it.
    stop: Option<StopTexts>,
    /// Token ids that end it.
    stop_token_ids: Option<TokenIds>,
    /// Whether the model's own end of text ends nothing.
    ignore_eos: Option<bool>,
    /// Whether the stop text is part of the text.
    include_stop_str_in_output: Option<bool>,
    /// Whether special tokens are left out of the text: `true` where left out.
    #[schema(default = true)]
    skip_special_tokens: Option<bool>,
    /// For each token of the prompt its log-probability and those of so many others; not with `stream`.
    #[schema(value_type = Option<usize>, minimum = 0, maximum = 20)]
    prompt_logprobs: Option<Count>,
    /// Whether the prompt, or the message that is continued, comes before the reply.
    echo: Option<bool>,
    /// Whether the tokenizer adds its special tokens: to prompts where left out, to conversations not.
    add_special_tokens: Option<bool>,
    /// Whether the reply comes in pieces, as server-sent events.
    stream: Option<bool>,
    /// How; only with `stream`.
    #[schema(value_type = Option<StreamOptions>)]
    stream_options: Option<Object<StreamOptions>>,
    /// Whether the reply has the ids of its tokens and the prompt's.
    return_token_ids: Option<bool>,
    /// Whether log-probabilities name tokens by id, as `token_id:7`.
    return_tokens_as_token_ids: Option<bool>,
    /// Texts of requests with another salt, or none, share no cached prefix with this one.
    cache_salt: Option<String>,
    /// Who the client's user is: in an A/B test of an adapter he always gets the same version.
    #[schema(value_type = Value)]
    user: Option<Value>,
    /// Only `{"type": "text"}`.
    #[schema(value_type = Option<TextFormat>)]
    response_format: Option<TemplateValue>,
    #[schema(ignore)]
    use_beam_search: Option<Unsupported>,
    #[schema(ignore)]
    truncate_prompt_tokens: Option<Unsupported>,
    #[schema(ignore)]
    structured_outputs: Option<Unsupported>,
    #[schema(ignore)]
    guided_json: Option<Unsupported>,
    #[schema(ignore)]
    guided_regex: Option<Unsupported>,
    #[schema(ignore)]
    guided_choice: Option<Unsupported>,
    #[schema(ignore)]
    guided_grammar: Option<Unsupported>,
    #[schema(ignore)]
    allowed_token_ids: Option<Unsupported>,
    #[schema(ignore)]
    bad_words: Option<Unsupported>,
    #[schema(ignore)]
    logprob_token_ids: Option<Unsupported>,
    #[schema(ignore)]
    prompt_embeds: Option<Unsupported>,
}

/// How a reply is streamed.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// Whether a last piece without choices has the usage.
    include_usage: Option<bool>,
    /// Whether every piece has the usage so far; with `include_usage`.
    continuous_usage_stats: Option<bool>,
}

/// The one format that a reply can have.
#[derive(Debug, ToSchema)]
pub struct TextFormat {
    /// Its name.
    #[schema(rename = "type", pattern = "^text$")]
    pub kind: String,
}

/// What the fields say, in the engine's terms where it is for the engine.
#[derive(Clone, Debug)]
pub struct ReadGeneration {
    /// The model.
    pub chosen: ChosenLlm,
    /// How tokens are drawn; `max_tokens` and `logprobs` are each endpoint's own.
    pub sampling: SamplingRequest,
    /// Copies of each prompt.
    pub copies: usize,
    /// Whether what comes before is repeated.
    pub echo: bool,
    /// Whether special tokens are added, where the request says.
    pub add_special_tokens: Option<bool>,
    /// How the reply is streamed; `None` where it comes whole.
    pub streamed: Option<Streamed>,
    /// Whether the reply has token ids.
    pub token_ids: bool,
    /// Whether log-probabilities name tokens by id.
    pub tokens_as_ids: bool,
    /// What keeps its cached prefixes apart.
    pub cache_salt: Option<String>,
    /// Who the client's user is.
    pub user: Option<String>,
    /// The adapter to bring along, where the request says whence.
    pub lora_request: Option<LoraRequest>,
}

/// What a stream tells beside the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streamed {
    /// The usage at the end.
    pub usage: bool,
    /// The usage so far with every piece.
    pub usage_so_far: bool,
}

impl GenerationFields {
    /// Reads the fields.
    ///
    /// # Errors
    /// 400 for what cannot be done and for fields that contradict each other; the model's as [`LlmRules::choose`].
    pub fn read(self, rules: LlmRules<'_>) -> Result<ReadGeneration, ApiError> {
        self.refuse_unsupported()?;
        let lora_request = self.lora_request.as_ref().map(|request| request.lora_name.as_str());
        let chosen = rules.choose(
            self.model.as_deref(),
            &[("lora_name", self.lora_name.as_deref()), ("lora_request.lora_name", lora_request)],
        )?;
        let streamed = self.streamed()?;
        let copies = self.n.map_or(1, |Count(copies)| copies);
        if self.cache_salt.as_ref().is_some_and(String::is_empty) {
            let message = "`cache_salt` is empty: leave it out to share cached prefixes".to_owned();
            return Err(invalid("cache_salt", message));
        }
        if copies == 0 {
            return Err(invalid("n", "`n` is 0: ask for at least one copy".to_owned()));
        }
        if streamed.is_some() && self.prompt_logprobs.is_some_and(|Count(most)| most > 0) {
            let message = "`prompt_logprobs` come with a whole reply only: leave out `stream`".to_owned();
            return Err(invalid("prompt_logprobs", message));
        }
        let number = |field: Option<Number>| field.map(|Number(number)| number);
        let flag = |field: Option<bool>| field.unwrap_or(false);
        let sampling = SamplingRequest {
            temperature: number(self.temperature),
            top_p: number(self.top_p),
            top_k: self.top_k.map(|Integer(tokens)| tokens),
            min_p: number(self.min_p),
            repetition_penalty: number(self.repetition_penalty),
            presence_penalty: number(self.presence_penalty),
            frequency_penalty: number(self.frequency_penalty),
            logit_bias: self.logit_bias.unwrap_or_default().0,
            seed: self.seed.map(|Integer(seed)| seed),
            max_tokens: None,
            min_tokens: self.min_tokens.map_or(0, |Count(tokens)| tokens),
            stop: self.stop.unwrap_or_default().0,
            stop_token_ids: self.stop_token_ids.map(|TokenIds(ids)| ids).unwrap_or_default(),
            ignore_eos: flag(self.ignore_eos),
            include_stop_str_in_output: flag(self.include_stop_str_in_output),
            skip_special_tokens: self.skip_special_tokens.unwrap_or(true),
            logprobs: None,
            prompt_logprobs: self.prompt_logprobs.map(|Count(most)| most),
        };
        check_lengths(&sampling)?;
        Ok(ReadGeneration {
            chosen,
            sampling,
            copies,
            echo: flag(self.echo),
            add_special_tokens: self.add_special_tokens,
            streamed,
            token_ids: flag(self.return_token_ids),
            tokens_as_ids: flag(self.return_tokens_as_token_ids),
            cache_salt: self.cache_salt,
            lora_request: self.lora_request,
            // As OpenAI has it a text; anything else says nothing of a client.
            user: self.user.and_then(|user| user.as_str().map(str::to_owned)),
        })
    }

    fn streamed(&self) -> Result<Option<Streamed>, ApiError> {
        let options = self.stream_options.map(|Object(options)| options);
        if !self.stream.unwrap_or(false) {
            return match options {
                Some(_) => Err(invalid("stream_options", "`stream_options` needs `stream`: true".to_owned())),
                None => Ok(None),
            };
        }
        let StreamOptions { include_usage, continuous_usage_stats } = options.unwrap_or_default();
        let usage = include_usage.unwrap_or(false);
        Ok(Some(Streamed { usage, usage_so_far: usage && continuous_usage_stats.unwrap_or(false) }))
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        refuse_unsupported(&[
            ("use_beam_search", self.use_beam_search),
            ("truncate_prompt_tokens", self.truncate_prompt_tokens),
            ("structured_outputs", self.structured_outputs),
            ("guided_json", self.guided_json),
            ("guided_regex", self.guided_regex),
            ("guided_choice", self.guided_choice),
            ("guided_grammar", self.guided_grammar),
            ("allowed_token_ids", self.allowed_token_ids),
            ("bad_words", self.bad_words),
            ("logprob_token_ids", self.logprob_token_ids),
            ("prompt_embeds", self.prompt_embeds),
        ])?;
        let Some(format) = &self.response_format else { return Ok(()) };
        // Not to find a type is to have another one.
        let kind = format.get_attr("type").unwrap_or_default();
        match kind.as_str() {
            Some("text") => Ok(()),
            _ => Err(not_yet("response_format", &format!("a `type` of {kind:.40}"), "{\"type\": \"text\"}")),
        }
    }
}

/// Refuses lists that are too long, before there is a copy of them for each prompt.
fn check_lengths(sampling: &SamplingRequest) -> Result<(), ApiError> {
    for (field, found, most) in [
        ("stop", sampling.stop.len(), MAX_STOP_STRINGS),
        ("stop_token_ids", sampling.stop_token_ids.len(), MAX_STOP_TOKEN_IDS),
        ("logit_bias", sampling.logit_bias.len(), MAX_LOGIT_BIASES),
    ] {
        if found > most {
            return Err(invalid(field, format!("`{field}` has {found} entries, at most {most} are taken")));
        }
    }
    match sampling.stop.iter().position(|stop| stop.len() > MAX_STOP_BYTES) {
        Some(index) => {
            let bytes = sampling.stop[index].len();
            let message = format!("`stop` has a text of {bytes} bytes, at most {MAX_STOP_BYTES} are taken");
            Err(invalid(format!("stop[{index}]"), message))
        }
        None => Ok(()),
    }
}

/// Refuses the first of the fields that asks for something.
pub(super) fn refuse_unsupported(fields: &[(&'static str, Option<Unsupported>)]) -> Result<(), ApiError> {
    match fields.iter().find(|(_, asked)| asked.is_some_and(|Unsupported(asked)| asked)) {
        Some((field, _)) => {
            let message = format!("`{field}` is not supported yet: leave it out");
            Err(ApiError::invalid(StatusCode::BAD_REQUEST, "unsupported_parameter", message).naming(*field))
        }
        None => Ok(()),
    }
}

/// 400 for a value that cannot be honoured so far.
pub(super) fn not_yet(field: &'static str, found: &str, supported: &str) -> ApiError {
    let message =
        format!("`{field}` has {found}, which is not supported yet: send {supported} or leave it out");
    ApiError::invalid(StatusCode::BAD_REQUEST, "unsupported_value", message).naming(field)
}

/// 400 for a value that contradicts others or can never be.
pub(super) fn invalid(field: impl Into<String>, message: String) -> ApiError {
    ApiError::invalid(StatusCode::BAD_REQUEST, "invalid_value", message).naming(field)
}
