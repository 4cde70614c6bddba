//! The request of `POST /v1/chat/completions`: a conversation for the model's chat template, and what is told of the reply.

use std::collections::BTreeMap;

use polylora_engine::{ChatPrompt, GenerateRequest, Prompt, TemplateValue};
use serde::Deserialize;
use utoipa::ToSchema;

use super::chat_messages::{list_of_objects, role_of, template_messages, text_of};
use super::error::ApiError;
use super::fields::LoraRequest;
use super::generate_error::FieldNames;
use super::generation_fields::{ReadGeneration, Streamed, invalid, not_yet, refuse_unsupported};
use super::generation_values::{TemplateKwargs, Unsupported};
use super::llm_choice::ChosenLlm;
use super::logprobs::TokenNames;
use super::numbers::Count;

/// Who speaks next.
const ASSISTANT: &str = "assistant";

/// The conversation, which generation and tokenising have in common.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct ConversationFields {
    /// The messages, oldest first: objects with `role` and `content`, a text or a list of text parts. Further fields reach the
    /// model's chat template as they are.
    #[schema(value_type = Messages)]
    messages: Option<TemplateValue>,
    /// The functions that the model may call. Calls come back as the model writes them, within the text.
    #[schema(value_type = Option<Vec<serde_json::Map<String, serde_json::Value>>>)]
    tools: Option<TemplateValue>,
    /// Documents to answer from, for templates that know them.
    #[schema(value_type = Option<Vec<serde_json::Map<String, serde_json::Value>>>)]
    documents: Option<TemplateValue>,
    /// Whether the prompt ends with the head of the reply: `true` where left out.
    #[schema(default = true)]
    add_generation_prompt: Option<bool>,
    /// Whether the reply continues the last message; only with `add_generation_prompt`: false.
    continue_final_message: Option<bool>,
    /// Further variables of the template, e.g. `{"enable_thinking": false}`.
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    chat_template_kwargs: Option<TemplateKwargs>,
    /// A variable of the template, for models that know it.
    reasoning_effort: Option<String>,
    #[schema(ignore)]
    chat_template: Option<Unsupported>,
}

/// Stands for a list of messages.
pub struct Messages;

/// The fields that only the generation of a reply has.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
pub struct ChatFields {
    /// Tokens to generate at most; left out, what the context leaves. Deprecated by OpenAI.
    #[schema(value_type = Option<usize>, minimum = 1)]
    max_tokens: Option<Count>,
    /// The same under its newer name, which goes first.
    #[schema(value_type = Option<usize>, minimum = 1)]
    max_completion_tokens: Option<Count>,
    /// Whether each token's log-probability is told.
    logprobs: Option<bool>,
    /// Of so many of the likeliest tokens as well; only with `logprobs`.
    #[schema(value_type = Option<usize>, minimum = 0, maximum = 20)]
    top_logprobs: Option<Count>,
    /// "none" or "auto".
    #[schema(value_type = Option<ToolChoice>)]
    tool_choice: Option<TemplateValue>,
    #[schema(ignore)]
    functions: Option<Unsupported>,
    #[schema(ignore)]
    audio: Option<Unsupported>,
}

/// Stands for the choices that leave it to the model whether it calls a function.
pub struct ToolChoice;

/// A request in the engine's terms, and what the reply needs to know of it.
#[derive(Clone, Debug)]
pub struct ReadChat {
    /// For the engine.
    pub request: GenerateRequest,
    /// The model.
    pub chosen: ChosenLlm,
    /// How its errors name the fields.
    pub names: FieldNames,
    /// How the reply is streamed, if it is.
    pub streamed: Option<Streamed>,
    /// What the reply tells.
    pub form: ChatForm,
    /// Who the client's user is.
    pub user: Option<String>,
    /// The adapter that it may bring along.
    pub lora_request: Option<LoraRequest>,
}

/// What a reply tells beside the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatForm {
    /// Who speaks.
    pub role: String,
    /// What he has said already, to be repeated.
    pub said: String,
    /// Log-probabilities, with this way to name tokens.
    pub logprobs: Option<TokenNames>,
    /// vLLM's log-probabilities of the prompt.
    pub prompt_logprobs: bool,
    /// Token ids.
    pub token_ids: bool,
    /// Copies of the prompt.
    pub copies: usize,
}

impl ConversationFields {
    /// Whether there is a conversation at all.
    pub fn is_given(&self) -> bool {
        self.messages.is_some()
    }

    /// Reads the conversation.
    ///
    /// # Errors
    /// 400 with the path of what is wrong.
    pub fn read(self) -> Result<ChatPrompt, ApiError> {
        refuse_unsupported(&[("chat_template", self.chat_template)])?;
        let messages = self.messages.ok_or_else(|| {
            ApiError::missing("the field `messages` is missing: send a list of objects with role and content")
                .naming("messages")
        })?;
        let messages = template_messages(&messages)?;
        let add_generation_prompt = self.add_generation_prompt.unwrap_or(true);
        let continue_final_message = self.continue_final_message.unwrap_or(false);
        if add_generation_prompt && continue_final_message {
            let message = "`continue_final_message` and `add_generation_prompt` cannot both be true: the last message \
                           stays open, or a new one begins";
            return Err(invalid("continue_final_message", message.to_owned()));
        }
        let list =
            |value: Option<TemplateValue>, name| value.map(|value| list_of_objects(value, name)).transpose();
        let mut kwargs: BTreeMap<_, _> = self.chat_template_kwargs.unwrap_or_default().0;
        if let Some(effort) = self.reasoning_effort {
            kwargs.entry("reasoning_effort".to_owned()).or_insert_with(|| TemplateValue::from(effort));
        }
        Ok(ChatPrompt {
            messages,
            tools: list(self.tools, "tools")?,
            documents: list(self.documents, "documents")?,
            add_generation_prompt,
            continue_final_message,
            kwargs,
        })
    }
}

impl ChatFields {
    /// Reads the request together with its conversation and the fields that it has in common with others.
    ///
    /// # Errors
    /// 400 for what cannot be done and for fields that contradict each other.
    pub fn read(
        self,
        conversation: ConversationFields,
        common: ReadGeneration,
    ) -> Result<ReadChat, ApiError> {
        refuse_unsupported(&[("functions", self.functions), ("audio", self.audio)])?;
        if let Some(choice) =
            self.tool_choice.filter(|choice| !matches!(choice.as_str(), Some("none" | "auto")))
        {
            return Err(not_yet("tool_choice", &format!("the value {choice}"), "\"none\" or \"auto\""));
        }
        let prompt = conversation.read()?;
        let max_tokens = match (self.max_completion_tokens, self.max_tokens) {
            (Some(Count(0)), _) => return Err(no_tokens("max_completion_tokens")),
            (None, Some(Count(0))) => return Err(no_tokens("max_tokens")),
            (newer, older) => newer.or(older).map(|Count(tokens)| tokens),
        };
        let tells_logprobs = self.logprobs.unwrap_or(false);
        let top = self.top_logprobs.map_or(0, |Count(top)| top);
        if top > 0 && !tells_logprobs {
            let message = "`top_logprobs` needs `logprobs`: true".to_owned();
            return Err(invalid("top_logprobs", message));
        }
        let last = prompt.messages.last();
        let role = match last.filter(|_| !prompt.add_generation_prompt) {
            Some(message) => role_of(message),
            None => ASSISTANT.to_owned(),
        };
        let said = last.filter(|message| common.echo && role_of(message) == role).map(text_of);
        let mut sampling = common.sampling;
        sampling.max_tokens = max_tokens;
        sampling.logprobs = tells_logprobs.then_some(top);
        let form = ChatForm {
            role,
            said: said.unwrap_or_default(),
            logprobs: tells_logprobs.then_some(TokenNames { by_id: common.tokens_as_ids }),
            prompt_logprobs: sampling.prompt_logprobs.is_some(),
            token_ids: common.token_ids,
            copies: common.copies,
        };
        let request = GenerateRequest {
            prompt: Prompt::Chat(prompt),
            add_special_tokens: common.add_special_tokens.unwrap_or(false),
            adapter: common.chosen.adapter.clone(),
            split_key: None,
            copies: common.copies,
            echo: false,
            sampling,
            cache_salt: common.cache_salt,
        };
        let names = FieldNames {
            prompt: "messages",
            is_list: false,
            model: common.chosen.named_by,
            logprobs: "top_logprobs",
        };
        let (chosen, streamed, user) = (common.chosen, common.streamed, common.user);
        let lora_request = common.lora_request;
        Ok(ReadChat { request, chosen, names, streamed, form, user, lora_request })
    }
}

fn no_tokens(field: &'static str) -> ApiError {
    invalid(field, format!("`{field}` is 0: ask for at least one token"))
}
