//! The request of `POST /v1/completions`: prompts as texts or token ids, and what is told of them.

use polylora_engine::{EmbedInput, GenerateRequest, MAX_PROMPTS, Prompt, SplitKey};
use serde::Deserialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::fields::LoraRequest;
use super::generate_error::FieldNames;
use super::generation_fields::{ReadGeneration, Streamed, invalid, refuse_unsupported};
use super::generation_values::Unsupported;
use super::input::Inputs;
use super::llm_choice::ChosenLlm;
use super::logprobs::TokenNames;
use super::numbers::Count;

/// Tokens that are generated where the request does not say.
const DEFAULT_MAX_TOKENS: usize = 16;

/// The fields that only completions have.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct CompletionFields {
    /// What to continue: a text, a list of texts, a list of token ids, or a list of such lists.
    #[schema(value_type = Prompts)]
    prompt: Option<Inputs>,
    /// Tokens to generate at most; 0 only with `echo`, for the log-probabilities of a prompt.
    #[schema(value_type = Option<usize>, default = 16, minimum = 0)]
    max_tokens: Option<Count>,
    /// For each token its log-probability and those of so many others.
    #[schema(value_type = Option<usize>, minimum = 0, maximum = 20)]
    logprobs: Option<Count>,
    /// Must be `n` where it is given.
    #[schema(value_type = Option<usize>, minimum = 1)]
    best_of: Option<Count>,
    #[schema(ignore)]
    suffix: Option<Unsupported>,
}

/// Stands for one prompt or several.
pub struct Prompts;

/// A request in the engine's terms, and what the reply needs to know of it.
#[derive(Clone, Debug)]
pub struct ReadCompletion {
    /// For the engine, one a prompt.
    pub requests: Vec<GenerateRequest>,
    /// The model.
    pub chosen: ChosenLlm,
    /// How its errors name the fields.
    pub names: FieldNames,
    /// How the reply is streamed, if it is.
    pub streamed: Option<Streamed>,
    /// What the reply tells.
    pub form: CompletionForm,
    /// Who the client's user is.
    pub user: Option<String>,
    /// The adapter that it may bring along.
    pub lora_request: Option<LoraRequest>,
}

/// What a reply tells beside the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompletionForm {
    /// Copies of each prompt.
    pub copies: usize,
    /// The prompt before the text.
    pub echo: bool,
    /// Only the prompt: what is generated is not told.
    pub only_prompt: bool,
    /// Log-probabilities, with this way to name tokens.
    pub logprobs: Option<TokenNames>,
    /// vLLM's log-probabilities of the prompt.
    pub prompt_logprobs: bool,
    /// Token ids.
    pub token_ids: bool,
}

impl CompletionFields {
    /// Reads the request together with the fields that it has in common with others.
    ///
    /// # Errors
    /// 400 for a missing prompt, too many of them, and fields that contradict each other.
    pub fn read(self, common: ReadGeneration) -> Result<ReadCompletion, ApiError> {
        refuse_unsupported(&[("suffix", self.suffix)])?;
        let prompts = self.prompt.ok_or_else(|| {
            let message =
                "the field `prompt` is missing: send a string, a list of strings or lists of token ids";
            ApiError::missing(message).naming("prompt")
        })?;
        let prompts = prompts.0;
        if prompts.is_empty() {
            return Err(invalid("prompt", "`prompt` is an empty list: send at least one prompt".to_owned()));
        }
        if prompts.len() > MAX_PROMPTS {
            let found = prompts.len();
            let message = format!("`prompt` has {found} prompts, at most {MAX_PROMPTS} are taken: split it");
            return Err(invalid("prompt", message));
        }
        if let Some(Count(best_of)) = self.best_of.filter(|&Count(best_of)| best_of != common.copies) {
            let message = format!(
                "`best_of` is {best_of} and `n` is {}: copies are not ranked, so they must be equal",
                common.copies
            );
            return Err(invalid("best_of", message));
        }
        let max_tokens = self.max_tokens.map_or(DEFAULT_MAX_TOKENS, |Count(tokens)| tokens);
        let only_prompt = max_tokens == 0;
        if only_prompt && !common.echo {
            let message = "`max_tokens` is 0: ask for at least one token, or for the prompt with `echo`";
            return Err(invalid("max_tokens", message.to_owned()));
        }
        let logprobs = self.logprobs.map(|Count(most)| most);
        let mut sampling = common.sampling;
        sampling.max_tokens = Some(max_tokens.max(1));
        sampling.logprobs = logprobs;
        let prompt_logprobs = sampling.prompt_logprobs.is_some();
        if common.echo && sampling.prompt_logprobs.is_none() {
            sampling.prompt_logprobs = logprobs;
        }
        let is_list = prompts.len() > 1;
        let request = |input| GenerateRequest {
            prompt: match input {
                EmbedInput::Text(text) => Prompt::Text(text),
                EmbedInput::Tokens(ids) => Prompt::Tokens(ids),
            },
            add_special_tokens: common.add_special_tokens.unwrap_or(true),
            adapter: common.chosen.adapter.clone(),
            split_key: None,
            copies: common.copies,
            echo: common.echo,
            sampling: sampling.clone(),
            cache_salt: common.cache_salt.clone(),
        };
        let names =
            FieldNames { prompt: "prompt", is_list, model: common.chosen.named_by, logprobs: "logprobs" };
        let form = CompletionForm {
            copies: common.copies,
            echo: common.echo,
            only_prompt,
            logprobs: logprobs.map(|_| TokenNames { by_id: common.tokens_as_ids }),
            prompt_logprobs,
            token_ids: common.token_ids,
        };
        Ok(ReadCompletion {
            requests: prompts.into_iter().map(request).collect(),
            chosen: common.chosen,
            names,
            streamed: common.streamed,
            form,
            user: common.user,
            lora_request: common.lora_request,
        })
    }
}

/// Lets all requests be split as the same client's.
pub fn split_by(requests: &mut [GenerateRequest], key: Option<SplitKey>) {
    for request in requests {
        request.split_key.clone_from(&key);
    }
}
