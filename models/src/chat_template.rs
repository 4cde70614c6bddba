//! Chat templates: messages to the text that a model was trained on, by the Jinja template of its directory.
//!
//! The environment is that of `apply_chat_template` in transformers: blocks trimmed, loop controls, Python's methods on
//! strings, lists and dicts, `raise_exception`, `strftime_now`, `tojson` without HTML escapes. What a template may compute
//! and allocate is bounded, so that one that came with an adapter can do no more harm than give an error.

mod files;
mod generation_tags;
mod json;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use jiff::ZonedDateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use polylora_adapters::{CHAT_TEMPLATE_FILE, ChatFault, ChatFiles, TOKENIZER_CONFIG_FILE};

use self::files::{DEFAULT, TemplateFiles};
use crate::ModelError;
use crate::config_fields::ConfigFields;
use crate::special_tokens::SpecialTokens;

/// A value that a template sees. Deserialised from JSON, objects keep the order of their keys, which templates show.
pub use minijinja::Value as TemplateValue;

/// Steps that a template may take; each also pays for 64 bytes of what it makes.
const FUEL: u64 = 2_000_000;

/// Stack of a thread that renders: lists within lists, as deep as the fuel lets a template make them, are taken down by one call a
/// level. Pages that are not touched are not taken.
const STACK_BYTES: usize = 256 << 20;

/// Deepest nesting of a template's calls.
const RECURSION: usize = 200;

/// What marks the end of a message that is to be continued. A blank at its end shows whether the template trims.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// The chat templates of a model or an adapter.
#[derive(Debug)]
pub struct ChatTemplates {
    environment: Environment<'static>,
    /// Names of the templates, and why one does not compile.
    names: BTreeMap<String, Result<(), String>>,
    special_tokens: BTreeMap<String, Value>,
}

/// What is to be rendered.
#[derive(Clone, Debug)]
pub struct ChatInput<'a> {
    /// The messages, a list of objects.
    pub messages: TemplateValue,
    /// Tools that the model may call, a list of objects.
    pub tools: Option<TemplateValue>,
    /// Documents for the model to read, a list of objects.
    pub documents: Option<TemplateValue>,
    /// What follows the last message.
    pub ending: ChatEnding,
    /// More variables, such as `enable_thinking`.
    pub variables: BTreeMap<String, TemplateValue>,
    /// The template's name, where a model has more than one. Without it, `tool_use` with tools, else `default`.
    pub template: Option<&'a str>,
    /// What `strftime_now` tells, in the time zone of the system.
    pub now: SystemTime,
}

/// What follows the last message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChatEnding {
    /// Nothing.
    Nothing,
    /// The beginning of an answer (`add_generation_prompt`).
    #[default]
    GenerationPrompt,
    /// What the model makes of the last message, which is left open (`continue_final_message`).
    FinalMessage,
}

/// Why messages cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// The template itself refuses them.
    #[error("the chat template refuses these messages: {message}")]
    Raised {
        /// Its words.
        message: String,
    },
    /// The template fails.
    #[error("the chat template `{template}` fails: {reason}")]
    Failed {
        /// Its name.
        template: String,
        /// The engine's words.
        reason: String,
    },
    /// There is no template of that name.
    #[error("there is no chat template `{name}`; there are: {}", names.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names that there are.
        names: Vec<String>,
    },
    /// The final message cannot be continued.
    #[error("the final message cannot be continued: {reason}")]
    Continue {
        /// Why.
        reason: &'static str,
    },
}

impl ChatTemplates {
    /// The templates of a model directory; `None` when it has none. One that does not compile is an error when it is
    /// rendered, because the model can still complete texts.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Self>, ModelError> {
        let files = TemplateFiles::read(dir)?;
        if files.sources.is_empty() {
            return Ok(None);
        }
        let templates = Self::new(files, SpecialTokens::read(dir)?, None);
        for (name, added) in &templates.names {
            if let Err(reason) = added {
                tracing::warn!(dir = %dir.display(), template = name, reason, "a chat template does not compile");
            }
        }
        Ok(Some(templates))
    }

    /// The templates that an adapter brings; `None` when it has none. Special tokens that it does not name are those of `base`.
    ///
    /// # Errors
    /// When a file is not what it must be or a template does not compile: nobody would want the base's in its place.
    pub fn of_adapter(files: &ChatFiles, base: Option<&Self>) -> Result<Option<Self>, ChatFault> {
        let fault = |reason: String| ChatFault { file: TOKENIZER_CONFIG_FILE, reason };
        let config =
            files.tokenizer_config.as_deref().map(|text| ConfigFields::parse(TOKENIZER_CONFIG_FILE, text));
        let config = config.transpose().map_err(fault)?;
        let (sources, file) = match (&files.template, &config) {
            (Some(source), _) => (TemplateFiles::of_source(source.clone()), CHAT_TEMPLATE_FILE),
            (None, Some(config)) => {
                let read = TemplateFiles::of_config(config);
                (read.map_err(|error| fault(error.to_string()))?, TOKENIZER_CONFIG_FILE)
            }
            (None, None) => return Ok(None),
        };
        if sources.sources.is_empty() {
            return Ok(None);
        }
        let mut tokens = SpecialTokens::default();
        config.into_iter().for_each(|config| tokens.take(config.into_fields()));
        let templates = Self::new(sources, tokens, base);
        let broken = templates.names.iter().find_map(|(name, added)| Some((name, added.as_ref().err()?)));
        match broken {
            None => Ok(Some(templates)),
            Some((name, reason)) => {
                let reason = format!("its chat template `{name}` does not compile: {reason}");
                Err(ChatFault { file, reason })
            }
        }
    }

    fn new(files: TemplateFiles, tokens: SpecialTokens, base: Option<&Self>) -> Self {
        let mut special_tokens = base.map(|base| base.special_tokens.clone()).unwrap_or_default();
        let SpecialTokens { named, additional } = tokens;
        special_tokens.extend(named.into_iter().map(|(name, token)| (name, token.into())));
        if !additional.is_empty() {
            special_tokens.insert("additional_special_tokens".into(), additional.into());
        }
        let mut environment = environment();
        let mut names = BTreeMap::new();
        for (name, source) in files.sources {
            let source = generation_tags::as_conditions(&source);
            let added = environment.add_template_owned(name.clone(), source).map_err(|e| words(&e));
            names.insert(name, added);
        }
        Self { environment, names, special_tokens }
    }

    /// The text of `input`. It already has its special tokens: it is tokenised without adding any. On a thread of its own.
    ///
    /// # Errors
    /// When the template raises an exception, fails or needs too much.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, ChatError> {
        let name = self.choose(input)?;
        let failed = |reason: String| ChatError::Failed { template: name.to_owned(), reason };
        thread::scope(|scope| {
            let renderer = thread::Builder::new().name("chat template".to_owned()).stack_size(STACK_BYTES);
            let renderer = renderer.spawn_scoped(scope, || self.render_here(name, input));
            let renderer = renderer.map_err(|error| failed(format!("no thread to render it: {error}")))?;
            renderer.join().unwrap_or_else(|_| Err(failed("it panicked".to_owned())))
        })
    }

    fn render_here(&self, name: &str, input: &ChatInput<'_>) -> Result<String, ChatError> {
        let failed = |reason: String| ChatError::Failed { template: name.to_owned(), reason };
        if let Some(Err(reason)) = self.names.get(name) {
            return Err(failed(reason.clone()));
        }
        let (messages, continued) = match input.ending {
            ChatEnding::FinalMessage => {
                let (messages, text) = with_open_end(&input.messages)?;
                (messages, Some(text))
            }
            ChatEnding::Nothing | ChatEnding::GenerationPrompt => (input.messages.clone(), None),
        };
        let or_none = |value: &Option<Value>| value.clone().unwrap_or(Value::from(()));
        let now = input.now;
        let mut variables = self.special_tokens.clone();
        variables.extend(input.variables.clone());
        variables.insert("messages".into(), messages);
        variables.insert("tools".into(), or_none(&input.tools));
        variables.insert("documents".into(), or_none(&input.documents));
        let prompted = input.ending == ChatEnding::GenerationPrompt;
        variables.insert("add_generation_prompt".into(), prompted.into());
        let strftime = move |format: String| strftime(&format, now);
        variables.insert("strftime_now".into(), Value::from_function(strftime));
        let template = self.environment.get_template(name).map_err(|e| failed(words(&e)))?;
        let rendered = template.render(Value::from(variables)).map_err(|error| match raised(&error) {
            Some(message) => ChatError::Raised { message },
            None => failed(words(&error)),
        })?;
        match continued {
            Some(text) => cut_at_tag(rendered, &text),
            None => Ok(rendered),
        }
    }

    fn choose<'a>(&'a self, input: &ChatInput<'a>) -> Result<&'a str, ChatError> {
        let unknown = |name: &str| ChatError::Unknown {
            name: name.to_owned(),
            names: self.names.keys().cloned().collect(),
        };
        let name = match input.template {
            Some(name) => name,
            None if input.tools.is_some() && self.names.contains_key("tool_use") => "tool_use",
            None => DEFAULT,
        };
        if self.names.contains_key(name) { Ok(name) } else { Err(unknown(name)) }
    }
}

/// As transformers makes it for chat templates.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build().expect("the delimiters are the usual ones"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.add_filter("tojson", json::to_json);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    environment
}

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raised(error: &Error) -> Option<String> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        source = error.source();
    }
    None
}

/// An error with its causes and the line.
fn words(error: &Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        words = format!("{words}: {error}");
        source = error.source();
    }
    words
}

fn strftime(format: &str, now: SystemTime) -> Result<String, Error> {
    let invalid =
        |reason: jiff::Error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {reason}"));
    let now = ZonedDateTime::try_from(now).map_err(invalid)?;
    jiff::fmt::strtime::format(format, &now).map_err(invalid)
}

/// The messages with [`CONTINUE_TAG`] at the end of the last one, and that one's text.
fn with_open_end(messages: &Value) -> Result<(Value, String), ChatError> {
    const CONTENT: &str = "content";
    let no_list = |_| ChatError::Continue { reason: "the messages are no list" };
    let mut messages: Vec<Value> = messages.try_iter().map_err(no_list)?.collect();
    let last = messages.pop().ok_or(ChatError::Continue { reason: "there is no message" })?;
    let content = last.get_attr(CONTENT).unwrap_or_default();
    let (content, text) = match content.as_str() {
        Some(text) => (Value::from(format!("{text}{CONTINUE_TAG}")), text.to_owned()),
        None => with_open_text(&content)?,
    };
    messages.push(with_field(&last, CONTENT, content));
    Ok((messages.into(), text))
}

/// The same for a message that is a list of parts: the last text.
fn with_open_text(content: &Value) -> Result<(Value, String), ChatError> {
    const NO_TEXT: ChatError = ChatError::Continue { reason: "it has no text" };
    let mut parts: Vec<Value> = content.try_iter().map_err(|_| NO_TEXT)?.collect();
    let text_of = |part: &Value| part.get_attr("text").ok()?.as_str().map(str::to_owned);
    for part in parts.iter_mut().rev() {
        if let Some(text) = text_of(part) {
            *part = with_field(part, "text", Value::from(format!("{text}{CONTINUE_TAG}")));
            return Ok((parts.into(), text));
        }
    }
    Err(NO_TEXT)
}

fn with_field(object: &Value, name: &str, value: Value) -> Value {
    let fields = object.try_iter().into_iter().flatten().map(|key| {
        let old = object.get_item(&key).unwrap_or_default();
        let new = if key.as_str() == Some(name) { value.clone() } else { old };
        (key, new)
    });
    Value::from_pairs(fields)
}

fn cut_at_tag(mut rendered: String, text: &str) -> Result<String, ChatError> {
    const GONE: ChatError = ChatError::Continue { reason: "the chat template does not show it as it is" };
    let at = rendered.rfind(CONTINUE_TAG.trim_end()).ok_or(GONE)?;
    if !rendered.contains(text.trim()) {
        return Err(GONE);
    }
    let kept = rendered[at..].starts_with(CONTINUE_TAG);
    rendered.truncate(at);
    // A template that trims took the blank away, and would have trimmed the text as well.
    Ok(if kept { rendered } else { rendered.trim_end().to_owned() })
}

#[cfg(test)]
mod tests;
