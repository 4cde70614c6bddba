//! What a caller asks a generation engine for; no wire format, no tensor.

use std::collections::BTreeMap;

pub use minijinja::Value as TemplateValue;
pub use minijinja::value::ValueKind as TemplateKind;
use polylora_adapters::SplitKey;

/// What comes before the text that is generated.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A text, tokenised by the engine.
    Text(String),
    /// Token ids, special tokens included as the caller wants them.
    Tokens(Vec<u32>),
    /// A conversation, which the model's chat template makes a text of.
    Chat(ChatPrompt),
}

/// A conversation as chat templates see it. Values are minijinja's, so that what a client sent reaches the template field by
/// field and in its order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatPrompt {
    /// The messages, oldest first, each an object with `role` and mostly `content`.
    pub messages: Vec<TemplateValue>,
    /// The functions that the model may call, a list of objects.
    pub tools: Option<TemplateValue>,
    /// Documents to answer from, a list of objects.
    pub documents: Option<TemplateValue>,
    /// Whether the text ends with the head of the reply.
    pub add_generation_prompt: bool,
    /// Whether the last message stays open and the reply continues it; never together with `add_generation_prompt`.
    pub continue_final_message: bool,
    /// Further variables of the template, e.g. `enable_thinking`.
    pub kwargs: BTreeMap<String, TemplateValue>,
}

/// How tokens are drawn and when it ends. `None` is what the model's `generation_config.json` says, else vLLM's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingRequest {
    /// What logits are divided by; 0 takes the most likely token.
    pub temperature: Option<f32>,
    /// Probability mass that is drawn from.
    pub top_p: Option<f32>,
    /// Tokens that are drawn from; 0 and -1 are all of them.
    pub top_k: Option<i64>,
    /// Probability, relative to the highest, below which no token is drawn.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens in prompt and output, where above 0, and multiplies them elsewhere; 1 changes nothing.
    pub repetition_penalty: Option<f32>,
    /// Taken from the logits of tokens in the output.
    pub presence_penalty: Option<f32>,
    /// Taken from the logits of tokens in the output, once for each time.
    pub frequency_penalty: Option<f32>,
    /// Added to the logits of token ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same tokens.
    pub seed: Option<i64>,
    /// Tokens to generate at most; `None` is what the context leaves.
    pub max_tokens: Option<usize>,
    /// Tokens before which no end is drawn.
    pub min_tokens: usize,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// Token ids that end it.
    pub stop_token_ids: Vec<u32>,
    /// Whether the model's own end of text ends nothing.
    pub ignore_eos: bool,
    /// Whether the stop text is part of the text.
    pub include_stop_str_in_output: bool,
    /// Whether special tokens are left out of the text.
    pub skip_special_tokens: bool,
    /// For each token its log-probability and those of so many of the likeliest.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt.
    pub prompt_logprobs: Option<usize>,
}

/// A request for one prompt, all its copies through the same adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// The prompt.
    pub prompt: Prompt,
    /// Whether the tokenizer's special tokens go around a text: of a conversation the template has mostly written them.
    pub add_special_tokens: bool,
    /// Name of the adapter, or `name@version`; `None` is the base model.
    pub adapter: Option<String>,
    /// What stands for the client where an adapter's traffic is split; without one he gets the active version.
    pub split_key: Option<SplitKey>,
    /// Independent continuations of the prompt, from 1.
    pub copies: usize,
    /// Whether the stream is to tell the prompt's text.
    pub echo: bool,
    /// How tokens are drawn.
    pub sampling: SamplingRequest,
    /// Requests share cached prefixes only where their salts are the same, or where they have none.
    pub cache_salt: Option<String>,
}
